"""`vireo release diff`: the differences between two releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.cli.release.access import declared_by, open_store

if TYPE_CHECKING:
    from vireo.server.recommend.filters.declared import Declared
    from vireo.server.releases.manifest import Manifest

V = TypeVar("V")

_SETTINGS = "data, code, schema, attributes, quotas, weights"
_SHOWN_ELSEWHERE = {"release_id", "created_at", "metrics", "files"}


def diff(
    before: Annotated[str, typer.Argument(help="Id of the first release.")],
    after: Annotated[str, typer.Argument(help="Id of the second release.")],
    as_json: AsJson = False,
) -> None:
    """Show the differences between two releases: files, metrics and settings.

    The metrics are those recorded in training, each on its own data; `vireo release promote`
    measures both releases on the same data.
    """
    with open_store() as store:
        manifests = (store.manifest(before), store.manifest(after))
        found = differences(*((each, declared_by(store, each)) for each in manifests))
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False)
    sides = ("before", "after")
    typer.echo(f"before: {before}\nafter:  {after}")
    settings = table_of("setting", *sides, texts=sides, title=_SETTINGS)
    for name, (old, new) in found["settings"].items():
        settings.add_row(name, Text(str(old)), Text(str(new)))
    numbers = (*sides, "change")
    metrics = table_of("metric", *numbers, numbers=numbers, title="metrics")
    for name, pair in found["metrics"].items():
        change = "" if None in pair else f"{pair[1] - pair[0]:+.4f}"
        metrics.add_row(name, *("" if each is None else f"{each:.4f}" for each in pair), change)
    same = f"files; {found['unchanged_files']} are the same"
    files = table_of("file", "", *sides, numbers=sides, title=same)
    for file in found["files"]:
        sizes = ("" if file[side] is None else f"{file[side]:,}" for side in sides)
        files.add_row(file["path"], file["kind"], *sizes)
    for table in (settings, metrics, files):
        if table.rows:
            print_table(table, console)
        else:
            console.print(f"{table.title}: no difference")


def differences(
    before: tuple[Manifest, Declared | None], after: tuple[Manifest, Declared | None]
) -> dict[str, Any]:
    """Return the differences between two releases as `--json` prints them.

    Args:
        before: manifest of the one, and the attributes that it declares, if any.
        after: those of the other.
    """
    manifests = (before[0], after[0])
    files = []
    for path, (old, new) in _pairs(*(each.files for each in manifests)).items():
        if old != new:
            kind = "added" if old is None else "removed" if new is None else "changed"
            sizes = {"before": old and old.size, "after": new and new.size}
            files.append({"path": path, "kind": kind, **sizes})
    settings = _pairs(_settings(*before), _settings(*after))
    return {
        "before": manifests[0].release_id,
        "after": manifests[1].release_id,
        "files": files,
        "unchanged_files": len(manifests[0].files.items() & manifests[1].files.items()),
        "metrics": _pairs(*(each.metrics for each in manifests)),
        "settings": {name: pair for name, pair in settings.items() if pair[0] != pair[1]},
    }


def _pairs(before: Mapping[str, V], after: Mapping[str, V]) -> dict[str, tuple[V | None, V | None]]:
    """Return the values that either has, by name; None if one lacks it."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names}


def _settings(manifest: Manifest, attributes: Declared | None) -> dict[str, Any]:
    settings = manifest.model_dump(mode="json", exclude=_SHOWN_ELSEWHERE)
    return _flat(settings | {"attributes": asdict(attributes) if attributes else {}})


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested objects, named by their path, such as "quotas.fresh"."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat
