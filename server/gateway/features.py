"""Reads one viewer's row from the Feast online store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from server.errors import VireoError
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures

FEATURE_SERVICE = "viewer_serving"


class FeatureReader:
    """Reads viewers' features. One thread at a time: SQLite reads share a connection."""

    def __init__(self, repo: Path) -> None:
        """Opens the Feast repository's state in `repo`; reads no offline data.

        Raises:
            VireoError: there is none, it lacks the feature service, or its online store
                can't be read.
        """
        # Imported here: it takes seconds, and only a process that reads features needs it.
        from feast import FeatureStore
        from feast.errors import FeatureServiceNotFoundException

        if not (repo / "feature_store.yaml").exists():
            raise VireoError(
                f"there are no features in {repo}; "
                f"build them with: vireo features build {repo.name}"
            )
        self._store = FeatureStore(repo_path=str(repo.absolute()))
        try:
            self._service = self._store.get_feature_service(FEATURE_SERVICE)
        except FeatureServiceNotFoundException as error:
            raise VireoError(
                f"{repo} has no feature service {FEATURE_SERVICE}; "
                f"build it again with: vireo features build {repo.name}"
            ) from error
        try:
            self.read("")  # also spares the first request what Feast prepares on a first read
        except Exception as error:
            # Feast and its stores raise whatever they like; the cause goes into the message.
            raise VireoError(
                f"the online store of {repo} can't be read ({type(error).__name__}: {error}); "
                f"build it again with: vireo features build {repo.name}"
            ) from error

    def read(self, viewer_id: str) -> ViewerFeatures:
        """The viewer's features now; the defaults for a viewer nobody knows.

        Raises:
            Exception: whatever the online store raises when it can't be read.
        """
        response = self._store.get_online_features(
            features=self._service, entity_rows=[{"viewer_id": viewer_id}]
        )
        return viewer_from_row({name: values[0] for name, values in response.to_dict().items()})


def viewer_from_row(row: Mapping[str, Any]) -> ViewerFeatures:
    """The features of one row of `viewer_serving`, by name; None stands for a missing value."""
    return ViewerFeatures(
        history_keys=video_keys(row["history_ids"] or ()),
        history_times=np.array(row["history_times"] or (), np.int64),
        watched_keys=np.array(row["watched_keys"] or (), np.int64),
        attributes=tuple(row["attributes"] or ()),
        watch_count=row["viewer_watch_count"] or 0,
        like_count=row["viewer_like_count"] or 0,
    )
