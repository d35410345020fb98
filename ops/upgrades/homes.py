"""What a home holds: data sets, features, the releases of runs, and a running stack's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vireo.ops.stack.state import StackState, running_stack
from vireo.ops.upgrades.documents import document_fields
from vireo.ops.upgrades.held import Held, Part, parsed_object
from vireo.ops.upgrades.stored_releases import held_manifest
from vireo.ops.upgrades.this_build import DATA, RULES, SPLIT, STACK, VIEWS
from vireo.server.errors import VireoError
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_features
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.online_rows import FEATURE_SERVICE
from vireo.server.home import Home

_STORE_SECONDS = 5.0


def home_files(home: Home) -> Part:
    """Return the documents below a home; data sets only if training is installed."""
    try:
        held = [*_runs(home), *_stack(home), *_training(home)]
    except OSError as error:
        return Part(name="home", away=f"{error.filename}: {error.strerror}")
    return Part(name="home", held=tuple(held))


def online_stores(home: Home) -> Part:
    """Return the online store of each data set's features, read as gateways do."""
    held = []
    for configuration in sorted((home.root / "features").glob("[!.]*/feature_store.yaml")):
        repo = configuration.parent
        rules = repo / "events.json"
        if rules.exists():
            problem = _problem(EventRules.load, repo)
            fields = document_fields(parsed_object(rules.read_bytes()), EventRules)
            held.append(_of(home, rules, RULES, fields, problem))
        try:
            held.append(_views(home, repo))
        except VireoError as error:
            return Part(name="online store", held=tuple(held), away=str(error))
    return Part(name="online store", held=tuple(held))


def _runs(home: Home) -> Iterator[Held]:
    for path in sorted((home.root / "runs").glob("[!.]*/release/manifest.json")):
        yield from held_manifest(_name(home, path), path.read_bytes())


def _stack(home: Home) -> Iterator[Held]:
    path = home.stack / "stack.json"
    if not path.exists():
        return
    problem = _problem(running_stack, home)
    fields = document_fields(parsed_object(path.read_bytes()), StackState)
    yield _of(home, path, STACK, fields, problem)


def _training(home: Home) -> Iterator[Held]:
    try:
        from vireo.training.data.dataset import DESCRIPTION, DatasetInfo, describe_dataset
        from vireo.training.features.watches import Split
    except ModuleNotFoundError:  # an image that only serves
        return
    for path in sorted((home.root / "data").glob(f"[!.]*/{DESCRIPTION}")):
        problem = _problem(describe_dataset, home, path.parent.name)
        fields = document_fields(parsed_object(path.read_bytes()), DatasetInfo)
        yield _of(home, path, DATA, fields, problem)
    for path in sorted((home.root / "features").glob("[!.]*/split.json")):
        problem = _problem(Split.load, home, path.parent.name)
        document = parsed_object(path.read_bytes())
        fields = document_fields(document, Split)
        number = str(document.get("features_format", 1))
        yield _of(home, path, SPLIT, fields, problem, number)


def _views(home: Home, repo: Path) -> Held:
    """Return the views of a repository; raise VireoError if its registry can't be read."""
    try:
        store = open_features(repo)
        names = [each.name for each in store.list_feature_views()]
        names += [each.name for each in store.list_feature_services()]
    except Exception as error:  # Feast raises errors of any type
        raise VireoError(f"{repo}: {type(error).__name__}: {error}") from error
    served = FEATURE_SERVICE in names
    problem = _problem(FeatureReader, repo, _STORE_SECONDS) if served else ""
    number = str(store.config.entity_key_serialization_version)
    return _of(home, repo / "registry.db", VIEWS, list(dict.fromkeys(names)), problem, number)


def _problem(read: Callable[..., object], *arguments: object) -> str:
    """Return why this build's own reader can't read something; empty if it can."""
    try:
        read(*arguments)
    except VireoError as error:
        return str(error)
    return ""


def _of(
    home: Home, path: Path, name: str, fields: list[str], problem: str, version: str = ""
) -> Held:
    return Held(
        where=_name(home, path),
        format=name,
        version=version,
        fields=tuple(fields),
        problem=problem,
    )


def _name(home: Home, path: Path) -> str:
    return str(path.relative_to(home.root))
