"""A viewer's values in the online store, as a request would read them now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.features.repository import open_repository

_FEATURES = {
    "attributes": "viewer_profile",
    "history_ids": "viewer_activity",
    "history_times": "viewer_activity",
    "watched_keys": "viewer_activity",
    "viewer_watch_count": "viewer_activity",
    "viewer_like_count": "viewer_activity",
}


@dataclass(frozen=True)
class OnlineViewer:
    """One viewer's online values; all empty for an unknown viewer."""

    attributes: tuple[str, ...]
    history_ids: tuple[str, ...]
    history_times: tuple[int, ...]
    watched_keys: tuple[int, ...]
    viewer_watch_count: int
    viewer_like_count: int


def read_online(repo: Path, viewer_id: str) -> OnlineViewer:
    """Read a viewer's values from the online store.

    Raises:
        VireoError: `repo` has no features.
    """
    answer = (
        open_repository(repo)
        .get_online_features(
            features=[f"{view}:{name}" for name, view in _FEATURES.items()],
            entity_rows=[{"viewer_id": viewer_id}],
        )
        .to_dict()
    )
    values: dict[str, Any] = {name: answer[name][0] for name in _FEATURES}
    return OnlineViewer(
        attributes=tuple(values["attributes"] or ()),
        history_ids=tuple(values["history_ids"] or ()),
        history_times=tuple(values["history_times"] or ()),
        watched_keys=tuple(values["watched_keys"] or ()),
        viewer_watch_count=values["viewer_watch_count"] or 0,
        viewer_like_count=values["viewer_like_count"] or 0,
    )
