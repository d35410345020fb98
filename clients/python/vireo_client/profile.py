"""What a caller itself knows of a viewer, for one request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from vireo_client._generated.enums import PROFILE_USE_NUMBERS, ProfileUse
from vireo_client.messages import ProfileMessage
from vireo_client.times import check_zone

_NUMBERS = {use: number for number, use in PROFILE_USE_NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class WatchedVideo:
    """A video that the viewer watched."""

    video_id: str
    """Your own id of the video; unknown ones are ignored."""
    time: datetime | None = None
    """When, with its time zone; the time of the request if None."""

    def __post_init__(self) -> None:
        check_zone(self.time)


@dataclass(frozen=True, slots=True)
class RequestProfile:
    """What you know of an anonymous or new viewer. Nothing of it is stored."""

    history: Iterable[WatchedVideo] = ()
    """Videos that were watched, in any order: at most 200. They are not returned."""
    attributes: Iterable[str] = ()
    """Attributes as "name=value", as in the viewers of the training data: at most 16."""
    use: ProfileUse = ProfileUse.ADDED
    """Whether it counts on top of what is stored of the viewer, or instead of it."""

    def message(self) -> ProfileMessage:
        """Return the message; raise ValueError for a value that none can hold."""
        message = ProfileMessage(
            attributes=self.attributes,
            use=_NUMBERS[ProfileUse(self.use)],  # type: ignore[arg-type]
        )
        for each in self.history:
            watched = message.history.add(video_id=each.video_id)
            if each.time is not None:
                watched.time.FromDatetime(each.time)
        return message
