"""What a viewer's activity features are: how each watched video changes them.

`training.features.activity` writes the same in bulk, for training and for the online store; tests
hold it against this. Nothing changes a viewer's row between two builds of the features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.features.keys import video_key

HISTORY_LIMIT = 200
"""How many of the last watched videos, with times, a viewer's row keeps."""
WATCHED_LIMIT = 5000
"""How many watched videos are remembered, for EASE and so as not to be recommended again."""


@dataclass(frozen=True)
class Watch:
    """One video watched by one viewer."""

    video_id: str
    time: int
    """Unix seconds."""
    liked: bool


@dataclass(frozen=True)
class Activity:
    """The activity features of one viewer after some event; the default is before any."""

    history_ids: tuple[str, ...] = ()
    """The last HISTORY_LIMIT videos watched, oldest first."""
    history_times: tuple[int, ...] = ()
    """When each was watched, Unix seconds."""
    watched_keys: tuple[int, ...] = ()
    """Keys of the last WATCHED_LIMIT videos watched, oldest first."""
    watch_count: int = 0
    like_count: int = 0

    def after(self, watch: Watch) -> Activity:
        """The activity once `watch` has happened."""
        return Activity(
            history_ids=(*self.history_ids, watch.video_id)[-HISTORY_LIMIT:],
            history_times=(*self.history_times, watch.time)[-HISTORY_LIMIT:],
            watched_keys=(*self.watched_keys, video_key(watch.video_id))[-WATCHED_LIMIT:],
            watch_count=self.watch_count + 1,
            like_count=self.like_count + int(watch.liked),
        )

    def after_like(self) -> Activity:
        """The activity once a video that was watched before has been liked."""
        return replace(self, like_count=self.like_count + 1)
