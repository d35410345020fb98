"""What a viewer did, and what a video is: what a client tells a stack."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypedDict, Unpack

from vireo_client._generated.enums import EVENT_KIND_NUMBERS, EventKind
from vireo_client.messages import EventMessage, VideoMessage
from vireo_client.times import check_zone

_NUMBERS = {kind: number for number, kind in EVENT_KIND_NUMBERS.items()}


class EventDetails(TypedDict, total=False):
    """What any event may say besides."""

    event_id: str
    """Your own id of the event, by which it counts once; generated if absent."""
    time: datetime
    """When it happened, with its time zone; now if absent."""
    request_id: str
    """`Slate.request_id` of the slate that led to it."""
    position: int
    """Position of the video in that slate, from 1."""
    locale: str
    """BCP 47 language tag of the viewer's device, for example "de-CH"."""
    device: str
    """Kind of device: "phone", "tablet", "tv" or "desktop"."""
    time_zone: str
    """The viewer's time zone, for example "Europe/Zurich" or "+02:00"."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a viewer did. Sent again, it counts once: keep it until it is recorded."""

    kind: EventKind
    viewer_id: str
    """Your own id of the viewer."""
    video_id: str = ""
    """Your own id of the video."""
    creator: str = ""
    """Who was followed."""
    watched_seconds: float | None = None
    watched_fraction: float | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    request_id: str = ""
    position: int = 0
    locale: str = ""
    device: str = ""
    time_zone: str = ""

    def __post_init__(self) -> None:
        check_zone(self.time)

    @classmethod
    def impression(cls, viewer_id: str, video_id: str, **more: Unpack[EventDetails]) -> Self:
        """Return that a video was shown; give `request_id` and `position` of its slate."""
        return cls(EventKind.IMPRESSION, viewer_id, video_id, **more)

    @classmethod
    def play(
        cls,
        viewer_id: str,
        video_id: str,
        *,
        watched_seconds: float | None = None,
        watched_fraction: float | None = None,
        **more: Unpack[EventDetails],
    ) -> Self:
        """Return that a video was played, for some seconds or for a fraction from 0 to 1.

        Features learn from the fraction alone whether a play is a like.
        """
        kind = EventKind.PLAY
        return cls(kind, viewer_id, video_id, "", watched_seconds, watched_fraction, **more)

    @classmethod
    def finish(cls, viewer_id: str, video_id: str, **more: Unpack[EventDetails]) -> Self:
        """Return that a video was watched to its end."""
        return cls(EventKind.FINISH, viewer_id, video_id, **more)

    @classmethod
    def like(cls, viewer_id: str, video_id: str, **more: Unpack[EventDetails]) -> Self:
        """Return that a video was liked."""
        return cls(EventKind.LIKE, viewer_id, video_id, **more)

    @classmethod
    def hide(cls, viewer_id: str, video_id: str, **more: Unpack[EventDetails]) -> Self:
        """Return that a video was hidden: it never comes back for this viewer."""
        return cls(EventKind.HIDE, viewer_id, video_id, **more)

    @classmethod
    def not_interested(cls, viewer_id: str, video_id: str, **more: Unpack[EventDetails]) -> Self:
        """Return that the viewer isn't interested in a video."""
        return cls(EventKind.NOT_INTERESTED, viewer_id, video_id, **more)

    @classmethod
    def follow(cls, viewer_id: str, creator: str, **more: Unpack[EventDetails]) -> Self:
        """Return that a creator was followed."""
        return cls(EventKind.FOLLOW, viewer_id, "", creator, **more)

    def message(self) -> EventMessage:
        """Return the message; raise ValueError for a value that none can hold."""
        message = EventMessage(
            event_id=self.event_id,
            viewer_id=self.viewer_id,
            kind=_NUMBERS[EventKind(self.kind)],  # type: ignore[arg-type]
            video_id=self.video_id,
            watched_seconds=self.watched_seconds,
            watched_fraction=self.watched_fraction,
            request_id=self.request_id,
            position=self.position,
            creator=self.creator,
            locale=self.locale,
            device=self.device,
            time_zone=self.time_zone,
        )
        message.time.FromDatetime(self.time)
        return message


@dataclass(frozen=True, slots=True)
class Video:
    """A video of the catalogue."""

    video_id: str
    """Your own id of the video."""
    title: str = ""
    """The id is used if empty."""
    tags: Iterable[str] = ()
    """At most 64."""
    published: datetime | None = None
    """When it was published, with its time zone; None if unknown."""
    duration: float | None = None
    """Length in seconds; None if unknown."""
    creator: str = ""
    """Who made it; empty if unknown."""
    attributes: Mapping[str, float | str | Iterable[str]] = field(default_factory=dict, hash=False)
    """Further attributes for filters, by name: a number, a label or several labels; at most 16."""

    def __post_init__(self) -> None:
        check_zone(self.published)

    def message(self) -> VideoMessage:
        """Return the message; raise ValueError for a value that none can hold."""
        message = VideoMessage(
            video_id=self.video_id,
            title=self.title,
            tags=self.tags,
            duration=self.duration,
            creator=self.creator,
        )
        if self.published is not None:
            message.published.FromDatetime(self.published)
        for name, value in self.attributes.items():
            if isinstance(value, int | float):
                message.attributes.add(name=name, number=value)
            else:
                labels = [value] if isinstance(value, str) else value
                message.attributes.add(name=name, labels=labels)
        return message
