"""Differences between two releases, by their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from vireo.server.filters.declared import Declared
from vireo.server.releases.manifest import Manifest

V = TypeVar("V")


@dataclass(frozen=True)
class FileChange:
    """A file that only one of two releases has, or that differs."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: int | None
    after: int | None
    """Size in bytes; None if the file isn't there."""


@dataclass(frozen=True)
class ReleaseDiff:
    """Differences from release `before` to release `after`."""

    before: str
    after: str
    files: tuple[FileChange, ...]
    unchanged_files: int
    metrics: Mapping[str, tuple[float | None, float | None]]
    """Every metric of either; None if one lacks it."""
    settings: Mapping[str, tuple[Any, Any]]
    """Differences in data, code, schema, attributes, quotas and weights, by "part.field"."""


def diff_releases(
    before: Manifest,
    after: Manifest,
    attributes: tuple[Declared | None, Declared | None] = (None, None),
) -> ReleaseDiff:
    """Compare two releases.

    Args:
        before: the manifest of the one.
        after: the manifest of the other.
        attributes: the attributes that each declares; None if it declares none.
    """
    files = []
    for path, (old, new) in _pairs(before.files, after.files).items():
        if old != new:
            kind: Literal["added", "removed", "changed"] = (
                "added" if old is None else "removed" if new is None else "changed"
            )
            files.append(
                FileChange(path, kind, old.size if old else None, new.size if new else None)
            )
    settings = _pairs(_settings(before, attributes[0]), _settings(after, attributes[1]))
    return ReleaseDiff(
        before=before.release_id,
        after=after.release_id,
        files=tuple(files),
        unchanged_files=sum(after.files.get(path) == entry for path, entry in before.files.items()),
        metrics=_pairs(before.metrics, after.metrics),
        settings={name: (old, new) for name, (old, new) in settings.items() if old != new},
    )


def _pairs(before: Mapping[str, V], after: Mapping[str, V]) -> dict[str, tuple[V | None, V | None]]:
    """Return the values that either has, by name; None if one lacks it."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names}


def _settings(manifest: Manifest, attributes: Declared | None) -> dict[str, Any]:
    shown_elsewhere = {"release_id", "created_at", "metrics", "files"}
    settings = manifest.model_dump(mode="json", exclude=shown_elsewhere)
    if attributes is not None:
        settings["attributes"] = asdict(attributes)
    return _flat(settings)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat
