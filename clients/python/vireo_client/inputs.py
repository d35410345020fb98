"""What callers give: what viewers did, what videos are, and what a request says of a viewer."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypedDict, Unpack

from vireo_client import messages as pb
from vireo_client._generated.enums import (
    EVENT_KIND_NUMBERS,
    PROFILE_USE_NUMBERS,
    SESSION_ACTION_NUMBERS,
    EventKind,
    ProfileUse,
    SessionAction,
)

_KINDS = {kind: number for number, kind in EVENT_KIND_NUMBERS.items()}
_USES = {use: number for number, use in PROFILE_USE_NUMBERS.items()}
_ACTIONS = {action: number for number, action in SESSION_ACTION_NUMBERS.items()}


def check_zone(time: datetime | None) -> None:
    """Raise ValueError if a time has no time zone."""
    if time is not None and time.tzinfo is None:
        raise ValueError(f"the time {time} has no time zone")


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

    def message(self) -> pb.Event:
        """Return the message; raise ValueError for a value that none can hold."""
        message = pb.Event(
            event_id=self.event_id,
            viewer_id=self.viewer_id,
            kind=_KINDS[EventKind(self.kind)],  # type: ignore[arg-type]
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

    def message(self) -> pb.Video:
        """Return the message; raise ValueError for a value that none can hold."""
        message = pb.Video(
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


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of one attribute; all that is set must hold.

    Labels, for example `tag`, `creator` or `language`, are compared by `any_of`, `all_of` and
    `none_of`; numbers, for example `duration` in seconds or `published` in Unix seconds, by `min`
    and `max`. A video of which the attribute isn't known meets `none_of` alone.
    """

    attribute: str
    """Name of the attribute, as the release declares it."""
    any_of: Iterable[str] = ()
    """The video has at least one of these labels."""
    all_of: Iterable[str] = ()
    """The video has all of these labels."""
    none_of: Iterable[str] = ()
    """The video has none of these labels."""
    min: float | None = None
    """The video's number is at least this."""
    max: float | None = None
    """The video's number is at most this."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Holds for a video if all of `conditions` hold, one of `any` unless empty, and no `none`.

    At most 64 values and bounds in all, and at most 4 filters within one another.
    """

    conditions: Iterable[Condition] = ()
    any: Iterable[Filter] = ()
    """Filters of which at least one must hold."""
    none: Iterable[Filter] = ()
    """Filters of which none may hold."""

    def message(self) -> pb.Filter:
        """Return the message; raise ValueError for a value that none can hold."""
        message = pb.Filter(
            any=[each.message() for each in self.any],
            none=[each.message() for each in self.none],
        )
        for each in self.conditions:
            message.conditions.add(
                attribute=each.attribute,
                any_of=each.any_of,
                all_of=each.all_of,
                none_of=each.none_of,
                min=each.min,
                max=each.max,
            )
        return message


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

    def message(self) -> pb.RequestProfile:
        """Return the message; raise ValueError for a value that none can hold."""
        message = pb.RequestProfile(
            attributes=self.attributes,
            use=_USES[ProfileUse(self.use)],  # type: ignore[arg-type]
        )
        for each in self.history:
            watched = message.history.add(video_id=each.video_id)
            if each.time is not None:
                watched.time.FromDatetime(each.time)
        return message


@dataclass(frozen=True, slots=True)
class SessionVideo:
    """A video that the viewer came upon in this session. It counts for one request alone."""

    video_id: str
    """Your own id of the video; unknown ones are ignored."""
    action: SessionAction = SessionAction.OPENED
    """How; what was opened counts more than what was searched or hovered over."""

    @property
    def action_number(self) -> int:
        """Number of the action in messages."""
        return _ACTIONS[SessionAction(self.action)]
