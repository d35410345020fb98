"""A viewer's row in the online store: what is stored, and what readers make of it.

The features are those of `vireo.training.features.definitions`. Gateways read SERVED; the consumer
of events reads and writes STATE, of which all that it writes follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from vireo.server.event_log.log import BEGIN, Position
from vireo.server.features.activity import HISTORY_LIMIT
from vireo.v1.viewer_pb2 import ViewerFeatures

if TYPE_CHECKING:
    from feast.protos.feast.types.Value_pb2 import Value

Views: TypeAlias = Mapping[str, Sequence[str]]
"""Names of features, by view."""
PROFILE, ACTIVITY, HIDDEN = "viewer_profile", "viewer_activity", "viewer_hidden"
SHOWN, FOLLOWED = "viewer_shown", "viewer_followed"
LATER_VIEWS = (SHOWN, FOLLOWED)
"""Views that features of earlier builds lack: there they are empty."""
POSITION: Views = {"consumer_position": ("position",)}
"""The feature of a partition of the log: up to where its events are in the rows, by view."""
SERVED: Views = {
    PROFILE: ("attributes",),
    ACTIVITY: ("history_times", "watched_keys", "viewer_watch_count", "viewer_like_count"),
    HIDDEN: ("hidden_keys", "hidden_times"),
    SHOWN: ("shown_keys", "shown_times"),
    FOLLOWED: ("followed_keys",),
}
"""Features that requests read, by view."""
STATE: Views = {
    ACTIVITY: (
        "watched_keys",
        "watched_times",
        "watched_liked",
        "viewer_watch_count",
        "viewer_like_count",
    ),
    HIDDEN: ("hidden_keys", "hidden_times"),
    SHOWN: ("shown_keys", "shown_times"),
    FOLLOWED: ("followed_keys", "followed_times"),
}
"""Features that say which events are in a row, by view."""
FEATURE_SERVICE = "viewer_serving"
"""Feast's service of SERVED."""
_MICROS = 1_000_000


class UnfitRowError(ValueError):
    """A viewer's stored row can't be used."""


class Stored(NamedTuple):
    """What the store has of a viewer."""

    values: Mapping[str, bytes]
    """Features by name, each a `Value` of Feast's; those that nothing is stored of are absent."""
    updated_at: int
    """When one changed last, Unix seconds; 0 if unknown."""


@dataclass(frozen=True)
class ViewerRow:
    """What the online store has of a viewer, apart from the profile; by default nothing."""

    watched: dict[int, int] = field(default_factory=dict)
    """When each of the last watched videos was watched first, Unix microseconds, by key; in the
    order of (time, key)."""
    liked: frozenset[int] = frozenset()
    """Keys of those that were liked."""
    watches: int = 0
    """Number of videos watched; more than those if some aren't remembered."""
    likes: int = 0
    """Number of them that were liked."""
    hides: dict[int, int] = field(default_factory=dict)
    """When each of the last hidden videos was hidden first, Unix seconds, by key; in that order."""
    shown: tuple[Sequence[int], Sequence[int]] = ((), ())
    """Keys of the videos of the last impressions, and the Unix seconds at which the minute of each
    began; in the order of (time, key)."""
    followed: dict[int, int] = field(default_factory=dict)
    """When each of the last creators was followed first, Unix seconds, by key; in the order of
    (time, key)."""


@dataclass(frozen=True)
class Change:
    """A viewer's row after some events, and what they changed in it.

    A row that didn't change is stored, too: its viewer was seen.
    """

    row: ViewerRow
    watched: Sequence[int] = ()
    """Keys of the videos that weren't watched before."""
    liked: Sequence[int] = ()
    """Keys of the videos that weren't liked before."""
    views: Sequence[str] = tuple(STATE)
    """The views to store."""


def row_of(stored: Mapping[str, bytes]) -> ViewerRow:
    """Return the row of STATE's features; raise UnfitRowError if it can't be brought up to date."""
    (keys, times), *others = (
        [_list(stored, f"{name}_{part}", "int64_list_val") for part in ("keys", "times")]
        for name in ("watched", "hidden", "shown", "followed")
    )
    hidden, shown, followed = others
    if len(shown[0]) != len(shown[1]):
        raise UnfitRowError(f"{len(shown[0])} impressions, {len(shown[1])} times of them")
    likes = _list(stored, "watched_liked", "bool_list_val")
    try:
        return ViewerRow(
            dict(zip(keys, times, strict=True)),
            frozenset(key for key, liked in zip(keys, likes, strict=True) if liked),
            _value(stored, "viewer_watch_count", "int64_val") or 0,
            _value(stored, "viewer_like_count", "int64_val") or 0,
            dict(zip(*hidden, strict=True)),
            (tuple(shown[0]), tuple(shown[1])),
            dict(zip(*followed, strict=True)),
        )
    except ValueError as error:
        raise UnfitRowError(f"lists of the viewer's row differ in length: {error}") from error


def values_of(row: ViewerRow, view: str) -> dict[str, bytes]:
    """Return what is stored of a row in a view of STATE, by feature."""
    if view != ACTIVITY:
        pairs = {
            HIDDEN: (row.hides.keys(), row.hides.values()),
            SHOWN: row.shown,
            FOLLOWED: (row.followed.keys(), row.followed.values()),
        }
        return {
            name: encode("int64_list_val", values)
            for name, values in zip(STATE[view], pairs[view], strict=True)
        }
    times = list(row.watched.values())
    return {
        "history_times": encode("int64_list_val", [at // _MICROS for at in times[-HISTORY_LIMIT:]]),
        "watched_keys": encode("int64_list_val", row.watched.keys()),
        "watched_times": encode("int64_list_val", times),
        "watched_liked": encode("bool_list_val", [key in row.liked for key in row.watched]),
        "viewer_watch_count": encode("int64_val", row.watches),
        "viewer_like_count": encode("int64_val", row.likes),
    }


def features_of(stored: Mapping[str, bytes], updated_at: int = 0) -> ViewerFeatures:
    """Return the features that requests read of SERVED's; what is absent or null has its default.

    The history is the end of `watched_keys`, as far back as it has times.

    Raises:
        UnfitRowError: pods would reject them.
    """
    watched = _list(stored, "watched_keys", "int64_list_val")
    times = _list(stored, "history_times", "int64_list_val")
    hidden = _list(stored, "hidden_keys", "int64_list_val")
    hidden_times = _list(stored, "hidden_times", "int64_list_val")
    shown = _list(stored, "shown_keys", "int64_list_val")
    shown_times = _list(stored, "shown_times", "int64_list_val")
    start = len(watched) - len(times)
    if start < 0:
        raise UnfitRowError(f"{len(watched)} videos watched, {len(times)} times in the history")
    if len(hidden) != len(hidden_times):
        raise UnfitRowError(f"{len(hidden)} videos hidden, {len(hidden_times)} times of that")
    if len(shown) != len(shown_times):
        raise UnfitRowError(f"{len(shown)} impressions, {len(shown_times)} times of them")
    return ViewerFeatures(
        # A whole column is copied at once, a part of it number by number.
        history_keys=watched[start:] if start else watched,
        history_times=times,
        watched_keys=watched,
        attributes=_list(stored, "attributes", "string_list_val"),
        watch_count=_value(stored, "viewer_watch_count", "int64_val") or 0,
        like_count=_value(stored, "viewer_like_count", "int64_val") or 0,
        hidden_keys=hidden,
        hidden_times=hidden_times,
        shown_keys=shown,
        shown_times=shown_times,
        followed_keys=_list(stored, "followed_keys", "int64_list_val"),
        updated_at=updated_at,
    )


def position_of(stored: Mapping[str, bytes]) -> Position:
    """Return the position in a partition's row."""
    text = _value(stored, "position", "string_val")
    return Position.parse(text) if text else BEGIN


def position_values(position: Position) -> dict[str, bytes]:
    """Return what is stored of a partition."""
    return {"position": encode("string_val", str(position))}


def encode(kind: str, value: Any) -> bytes:
    """Return what is stored of a feature's value, by its field in Feast's `Value`."""
    made = _value_type()()
    if kind.endswith("_list_val"):
        getattr(made, kind).val.extend(value)  # two thirds of the time of a constructor
    else:
        setattr(made, kind, value)
    return made.SerializeToString()


def _list(stored: Mapping[str, bytes], name: str, kind: str) -> Sequence[Any]:
    value = _value(stored, name, kind)
    return () if value is None else value.val


def _value(stored: Mapping[str, bytes], name: str, kind: str) -> Any:
    """Return a feature's value; None if it is absent or null."""
    if (data := stored.get(name)) is None:
        return None
    try:
        value = _value_type().FromString(data)
    except DecodeError as error:
        raise UnfitRowError(f"{name} can't be read: {error}") from error
    found = value.WhichOneof("val")
    if found == kind:
        return getattr(value, kind)
    if found in (None, "null_val"):
        return None
    raise UnfitRowError(f"{name} is stored as {found} instead of {kind}")


@cache
def _value_type() -> type[Value]:
    """Return Feast's message of a value by its file: Feast's import takes seconds and 200 MB."""
    package = find_spec("feast")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "protos/feast/types/Value_pb2.py")
    spec = spec_from_file_location("feast_value_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Value] = module.Value
    return found
