"""What the caller itself knows of the viewer, on top of what is stored or instead of it."""

from __future__ import annotations

from vireo.v1.recommendation_pb2 import RequestProfile
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.features.activity import HISTORY_LIMIT
from server.features.keys import video_key


def with_profile(stored: ViewerFeatures, profile: RequestProfile, asked_at: int) -> ViewerFeatures:
    """Return the viewer's features with those of a request; `stored` isn't changed.

    A video that is stored as watched keeps its place in the history: the first watch counts, as in
    the feature store. Of two attributes of one name the request's counts.

    Args:
        stored: the features that are stored.
        profile: the request's.
        asked_at: time of the request, Unix seconds, for watches without a time.
    """
    viewer = ViewerFeatures()
    viewer.CopyFrom(stored)
    known = set(stored.watched_keys)
    watched: dict[int, int] = {}
    for each in profile.history:
        time = max(0, each.time.seconds) if each.HasField("time") else asked_at
        key = video_key(each.video_id)
        watched[key] = min(time, watched.get(key, time))
    new = [(time, key) for key, time in watched.items() if key not in known]
    if new:
        stored_history = zip(stored.history_times, stored.history_keys, strict=True)
        history = sorted([*stored_history, *new])[-HISTORY_LIMIT:]
        viewer.history_times[:] = [time for time, _ in history]
        viewer.history_keys[:] = [key for _, key in history]
        viewer.watched_keys.extend(key for _, key in sorted(new))
        viewer.watch_count += len(new)
    if profile.attributes:
        names = {_name(each) for each in profile.attributes}
        kept = [each for each in stored.attributes if _name(each) not in names]
        viewer.attributes[:] = [*profile.attributes, *kept]
    return viewer


def _name(attribute: str) -> str:
    return attribute.partition("=")[0]
