"""The home of the stack under test: a copy of what it serves, since faults damage it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from bench.chaos.small_disk import take_away
from bench.stack import OwnStack, own_stack, run_vireo, stack_environment
from vireo.server.errors import VireoError
from vireo.server.home import Home

_FETCHED = "ml-100k"
_PROFILE = "quick"


def prepared(
    home: Home,
    dataset: str,
    console: Console,
    bench: str = "chaos",
    settings: Mapping[str, str] | None = None,
) -> OwnStack:
    """Return a stack with further settings in a home of its own below `home`, one a `bench`.

    It serves the newest release that was trained on the data set in `home`; if there is none, a
    small one is trained.

    Raises:
        VireoError: there is none and the data can't be fetched, or the features aren't in SQLite.
    """
    source = _source(home, dataset, console)
    own = _emptied(home, bench)
    if not online_store(source, dataset).exists():
        raise VireoError(
            f"the features of {dataset} are not in SQLite, which the faults are made for; build "
            f"them with: VIREO_ONLINE_STORE=sqlite vireo features build {dataset}"
        )
    shutil.copytree(source.features(dataset), own.features(dataset))
    return own_stack(own, source.staged_release(dataset), settings=settings)


def prepared_with(
    home: Home, dataset: str, console: Console, bench: str, settings: Mapping[str, str]
) -> OwnStack:
    """Return such a stack with features that are built for it, with further settings.

    Raises:
        VireoError: there is no release and the data can't be fetched; or they can't be built.
    """
    source = _source(home, dataset, console)
    own = _emptied(home, bench)
    own.root.mkdir(parents=True)
    (own.root / "data").symlink_to((source.root / "data").absolute(), target_is_directory=True)
    run_vireo(["features", "build", dataset], {**stack_environment(own), **settings})
    return own_stack(own, source.staged_release(dataset), settings=settings)


def _source(home: Home, dataset: str, console: Console) -> Home:
    """Return the home whose release is served."""
    return home if _trained(home, dataset) else _small(home, dataset, console)


def _emptied(home: Home, bench: str) -> Home:
    own = Home(home.root / "bench" / bench / "stack")
    take_away(own)
    shutil.rmtree(own.root, ignore_errors=True)
    return own


def online_store(home: Home, dataset: str) -> Path:
    """Return the file in which gateways read viewers' features."""
    return home.features(dataset) / "online.db"


def _trained(home: Home, dataset: str) -> bool:
    return (home.staged_release(dataset) / "manifest.json").exists()


def _small(home: Home, dataset: str, console: Console) -> Home:
    """Return a home with a briefly trained release, kept for the next time."""
    small = Home(home.root / "bench" / "chaos" / "release")
    if _trained(small, dataset):
        return small
    if dataset != _FETCHED:
        raise VireoError(f"nothing was trained on {dataset}; do it: vireo train --data {dataset}")
    console.print(f"training a small release on {dataset}, since {home.root} has none")
    environment = stack_environment(small)
    run_vireo(["data", "fetch", dataset], environment)
    options = ["--profile", _PROFILE, "--no-refit", "--force"]
    run_vireo(["train", "--data", dataset, *options], environment)
    return small
