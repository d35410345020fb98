"""Decodes the viewer's features of the inner hops, for candidate and ranking service."""

from __future__ import annotations

import time

import numpy as np

from vireo.server.features.context import received
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.rpc.errors import invalid_argument
from vireo.v1 import viewer_pb2


def decode_viewer(viewer: viewer_pb2.ViewerFeatures) -> ViewerFeatures:
    """Return the features in a request; its time is now unless the request has one.

    Raises:
        RpcError: INVALID_ARGUMENT if keys and their times differ in length.
    """
    # No rule in CEL says so: protovalidate would serialize and parse the whole message for it.
    for name, keys, times in (
        ("history", viewer.history_keys, viewer.history_times),
        ("hidden", viewer.hidden_keys, viewer.hidden_times),
        ("shown", viewer.shown_keys, viewer.shown_times),
    ):
        if len(times) != len(keys):
            text = f"must have as many values as {name}_keys"
            raise invalid_argument([(f"viewer.{name}_times", text)])
    return ViewerFeatures(
        history_keys=np.array(viewer.history_keys, np.int64),
        history_times=np.array(viewer.history_times, np.int64),
        watched_keys=np.array(viewer.watched_keys, np.int64),
        attributes=tuple(viewer.attributes),
        watch_count=viewer.watch_count,
        like_count=viewer.like_count,
        hidden_keys=np.array(viewer.hidden_keys, np.int64),
        hidden_times=np.array(viewer.hidden_times, np.int64),
        shown_keys=np.array(viewer.shown_keys, np.int64),
        shown_times=np.array(viewer.shown_times, np.int64),
        followed_keys=np.array(viewer.followed_keys, np.int64),
        asked_at=viewer.asked_at or int(time.time()),
        context=received(viewer.context),
    )
