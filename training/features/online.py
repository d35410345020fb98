"""A viewer's values in the online store, as a request would read them now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast.infra.online_stores.helpers import get_online_store_from_config

from vireo.server.features.active_build import ActiveBuild
from vireo.training.features.definitions import (
    SERVED_ACTIVITY,
    columns,
    viewer_activity,
    viewer_hidden,
    viewer_profile,
)
from vireo.training.features.repository import open_repository


@dataclass(frozen=True)
class OnlineViewer:
    """One viewer's online values; all empty for an unknown viewer."""

    attributes: tuple[str, ...] = ()
    history_times: tuple[int, ...] = ()
    watched_keys: tuple[int, ...] = ()
    viewer_watch_count: int = 0
    viewer_like_count: int = 0
    hidden_keys: tuple[int, ...] = ()
    hidden_times: tuple[int, ...] = ()

    @property
    def history_keys(self) -> tuple[int, ...]:
        """Keys of the videos watched last, oldest first; as many as history_times."""
        return self.watched_keys[len(self.watched_keys) - len(self.history_times) :]


def read_online(repo: Path, viewer_id: str) -> OnlineViewer:
    """Read a viewer's values from the online store; raise VireoError if `repo` has no features."""
    store, key = open_repository(repo), {"viewer_id": viewer_id}
    online: Any = get_online_store_from_config(store.config.online_store)
    build = ActiveBuild(store.config, online)
    build.ask()
    wanted = {
        viewer_profile.name: columns(viewer_profile),
        viewer_activity.name: SERVED_ACTIVITY,
        viewer_hidden.name: columns(viewer_hidden),
    }
    names = [f"{view}:{name}" for view, features in wanted.items() for name in features]
    # The registry is the folder's, whose project may be another than that of the rows.
    answer = online.get_online_features(
        build.config, names, [key], store.registry, store.project
    ).to_dict()
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, [value] in answer.items()
        if name not in key and value
    }
    return OnlineViewer(**values)
