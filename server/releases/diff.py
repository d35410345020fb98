"""Differences between two releases, by their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from server.releases.manifest import Manifest


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
    """Differences in data, code, schema, quotas and weights, by "part.field"."""

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def diff_releases(before: Manifest, after: Manifest) -> ReleaseDiff:
    """Compare two manifests."""
    files = []
    for path in sorted(before.files.keys() | after.files.keys()):
        old, new = before.files.get(path), after.files.get(path)
        if old == new:
            continue
        kind: Literal["added", "removed", "changed"] = (
            "added" if old is None else "removed" if new is None else "changed"
        )
        files.append(FileChange(path, kind, old.size if old else None, new.size if new else None))
    names = sorted(before.metrics.keys() | after.metrics.keys())
    return ReleaseDiff(
        before=before.release_id,
        after=after.release_id,
        files=tuple(files),
        unchanged_files=sum(after.files.get(path) == entry for path, entry in before.files.items()),
        metrics={name: (before.metrics.get(name), after.metrics.get(name)) for name in names},
        settings=_settings_changes(before, after),
    )


def _settings_changes(before: Manifest, after: Manifest) -> dict[str, tuple[Any, Any]]:
    old, new = _settings(before), _settings(after)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _settings(manifest: Manifest) -> dict[str, Any]:
    shown_elsewhere = {"release_id", "created_at", "metrics", "files"}
    return _flat(manifest.model_dump(mode="json", exclude=shown_elsewhere))


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
