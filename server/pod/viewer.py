"""Decodes the viewer's features of the inner hops, for candidate and ranking service."""

from __future__ import annotations

import time

import numpy as np
from vireo.v1 import viewer_pb2

from server.features.viewer import ViewerFeatures


def decode_viewer(viewer: viewer_pb2.ViewerFeatures) -> ViewerFeatures:
    """Return the features in a request; its time is now unless the request has one."""
    return ViewerFeatures(
        history_keys=np.array(viewer.history_keys, np.int64),
        history_times=np.array(viewer.history_times, np.int64),
        watched_keys=np.array(viewer.watched_keys, np.int64),
        attributes=tuple(viewer.attributes),
        watch_count=viewer.watch_count,
        like_count=viewer.like_count,
        asked_at=viewer.asked_at or int(time.time()),
    )
