"""Whether gateways read the viewers' features that are computed offline.

A viewer's features at a past request follow from the feature build and from the events that the
archive has since: whatever a gateway read instead is a difference. What pods made of them is
compared by `vireo.training.evaluation.replay`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireo.server.consumer.archived_rows import EVENT_ROWS, Row, request_of, rows_in
from vireo.server.consumer.fold import UnfitEventError, ViewerEvents, fold
from vireo.server.event_log.jetstream import EVENT_KINDS
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import CONFIGURATION
from vireo.server.features.viewer_rows import (
    STATE,
    ViewerRow,
    encode,
    features_of,
    row_of,
    values_of,
)
from vireo.training.evaluation.replay import Difference
from vireo.training.features.build import last_seen
from vireo.training.features.definitions import viewer_profile
from vireo.v1 import event_pb2
from vireo.v1.recommendation_pb2 import RecommendRequest
from vireo.v1.viewer_pb2 import ViewerFeatures

LAG_SECONDS = 10.0
"""Seconds within which events may or may not be in a viewer's row."""
_CLOCK_SECONDS = 60.0
"""Maximum seconds between the time that features are of and the answer."""
_STALE_EVENTS = 100
"""Maximum events by which a row is searched to be behind."""
_EXACT = (
    *("history_keys", "history_times", "watched_keys"),
    *("watch_count", "like_count", "attributes"),
)
_KEPT = ("hidden", "shown", "followed")
"""Lists that may have more than the archive and the feature build know of: builds keep it."""
_EXCUSED = ("features_missing", "features_stale", "features_behind")
"""Degradations by which a slate says that it lacks features, or has old ones."""
_EVENT_FIELDS = (
    *("viewer_id", "video_id", "creator"),
    *("locale", "watched_seconds", "watched_fraction"),
)
_KINDS = {name: number for number, name in EVENT_KINDS.items()}


class OfflineViewers:
    """Viewers as they were at any time since their features were built."""

    def __init__(
        self,
        repo: Path,
        events: Sequence[Path],
        viewer_ids: Collection[str],
        expiry: float = math.inf,
    ) -> None:
        """Read some viewers' rows of a feature build, and their events of the archive.

        Args:
            repo: the feature folder that gateways read.
            events: files of the archive.
            viewer_ids: whom to read.
            expiry: seconds without an event after which the online store may forget a viewer.
        """
        self.built_at = (repo / CONFIGURATION).stat().st_mtime
        """When the features were built, Unix seconds."""
        self.archived_until = _archived_until(events)
        """Time up to which all events are in the archive, Unix seconds."""
        self._expiry = expiry
        rules = EventRules.load(repo)
        names = pa.array(sorted(viewer_ids), pa.string())
        stored: dict[str, dict[str, bytes]] = {each: {} for each in names.to_pylist()}
        self._attributes: dict[str, Sequence[str]] = {}
        for view, columns in STATE.items():
            for row in _rows(repo / f"{view}.parquet", names):
                values = ((name, row[name]) for name in columns)
                stored[row["viewer_id"]] |= {name: _encoded(value) for name, value in values}
        for row in _rows(repo / f"{viewer_profile.name}.parquet", names):
            self._attributes[row["viewer_id"]] = row["attributes"] or ()
        self._built = {name: row_of(values) for name, values in stored.items()}
        self._events = _events(events, names, rules)
        self._rules = rules

    def may_be_forgotten(self, viewer_id: str, seconds: float) -> bool:
        """Return whether the online store may lack some of a viewer at a time, Unix seconds."""
        row = self._row(viewer_id, self.known_by(viewer_id, seconds))
        return row.watches > len(row.watched) or last_seen(row) < seconds - self._expiry

    def known_by(self, viewer_id: str, seconds: float) -> int:
        """Return how many of a viewer's events the log had by a time, Unix seconds."""
        times = [at for at, _ in self._events.get(viewer_id, ())]
        # Clocks of gateways differ: the log may have an event before one with an earlier time.
        return int(np.searchsorted(np.maximum.accumulate(times or [np.inf]), seconds, side="right"))

    def _row(self, viewer_id: str, count: int, hides: Mapping[int, int] | None = None) -> ViewerRow:
        seen = ViewerEvents(hides={**(hides or {})})
        for _, event in self._events.get(viewer_id, ())[:count]:
            seen.add(event, self._rules)
        return fold(self._built[viewer_id], seen).row

    def after(
        self, viewer_id: str, count: int, hides: Mapping[int, int] | None = None
    ) -> ViewerFeatures:
        """Return a viewer's features after so many events.

        `hides` are further hides, which builds keep: times, Unix seconds, by key.
        """
        row = self._row(viewer_id, count, hides)
        values = {name: each for view in STATE for name, each in values_of(row, view).items()}
        values["attributes"] = encode("string_list_val", self._attributes.get(viewer_id, ()))
        return features_of(values)


def _archived_until(events: Sequence[Path]) -> float:
    """Return the time up to which files have the events of every partition, Unix seconds."""
    newest: dict[str, float] = {}
    for file in events:
        partition, times = file.name.partition("-")[0], pq.read_table(file, columns=["received_at"])
        if len(times):
            last = pc.max(times["received_at"]).as_py().timestamp()
            newest[partition] = max(last, newest.get(partition, last))
    return min(newest.values(), default=-math.inf)


def _rows(path: Path, names: pa.Array) -> Iterator[Row]:
    if not path.exists():  # of an earlier build
        return
    table = pq.read_table(path, filters=pc.field("viewer_id").isin(names))
    yield from table.to_pylist()


def _encoded(value: Any) -> bytes:
    """Return a value as the online store has it."""
    if not isinstance(value, list):
        return encode("int64_val", value)
    return encode(
        "bool_list_val" if value and isinstance(value[0], bool) else "int64_list_val", value
    )


def _events(
    files: Sequence[Path], names: pa.Array, rules: EventRules
) -> dict[str, list[tuple[float, event_pb2.Event]]]:
    """Return each viewer's events with the times at which the log took them, in its order.

    Those that a consumer can't apply are left out.
    """
    found: dict[str, list[tuple[float, event_pb2.Event]]] = {}
    table = rows_in(EVENT_ROWS, files).to_table(filter=pc.field("viewer_id").isin(names))
    for row in table.sort_by("sequence").to_pylist():
        event = event_pb2.Event(kind=_KINDS.get(row["kind"], event_pb2.EVENT_KIND_UNSPECIFIED))
        event.time.FromDatetime(row["at"])
        for name in _EVENT_FIELDS:
            if row[name] is not None:
                setattr(event, name, row[name])
        try:
            ViewerEvents().add(event, rules)
        except UnfitEventError:
            continue
        found.setdefault(row["viewer_id"], []).append((row["received_at"].timestamp(), event))
    return found


def not_comparable(row: Row, viewers: OfflineViewers) -> str:
    """Return why a slate's viewer needn't be what is computed; empty if it must be."""
    if said := {*row["degradations"]} & {*_EXCUSED}:
        return f"it says so: {min(said)}"
    if not row["retrieval"]:
        return "it has no candidates"
    if RecommendRequest.FromString(row["request"]).HasField("profile"):
        return "its request brought a profile"
    answered_at = row["answered_at"].timestamp()
    if answered_at <= viewers.built_at + LAG_SECONDS:
        return "the features were built anew since then"
    if answered_at > viewers.archived_until:
        return "events before it may not be archived yet"
    if viewers.may_be_forgotten(row["viewer_id"], answered_at):
        return "not all of its viewer is remembered"
    return ""


def viewer_difference(row: Row, viewers: OfflineViewers) -> Difference | None:
    """Return how the viewer of a comparable slate differs from what is computed, if at all."""
    asked = RecommendRequest.FromString(row["request"])
    viewer_id, recorded = row["viewer_id"], request_of(row).viewer
    answered_at = row["answered_at"].timestamp()

    def different(feature: str, one: Any, other: Any) -> Difference:
        return Difference(row["request_id"], "viewer", feature, str(one), str(other))

    if not asked.context.HasField("time") and abs(row["asked_at"] - answered_at) > _CLOCK_SECONDS:
        return different("asked_at", row["asked_at"], f"{answered_at:.0f}")

    # A build keeps hides that neither its data nor the archive has.
    hides = dict(zip(recorded.hidden_keys, recorded.hidden_times, strict=True))

    def differs(count: int) -> tuple[str, Any, Any] | None:
        return _first_difference(recorded, viewers.after(viewer_id, count, hides))

    latest = viewers.known_by(viewer_id, answered_at)
    least = viewers.known_by(viewer_id, answered_at - LAG_SECONDS)
    found = differs(latest)
    if found is None or any(differs(count) is None for count in range(least, latest)):
        return None
    earlier = range(least - 1, max(-1, least - 1 - _STALE_EVENTS), -1)
    stale = next((count for count in earlier if differs(count) is None), None)
    if stale is not None:
        was = f"the row before the last {latest - stale} events"
        return different("staleness", was, f"events more than {LAG_SECONDS:g} s old")
    return different(*found)


def _first_difference(
    recorded: ViewerFeatures, computed: ViewerFeatures
) -> tuple[str, Any, Any] | None:
    """Return the first feature that differs, with the first value that does of a list."""
    for name in _EXACT:
        one, other = getattr(recorded, name), getattr(computed, name)
        if one == other:
            continue
        if isinstance(one, int):
            return name, one, other
        place = next(
            (n for n, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), None
        )
        if place is None:
            return name, f"{len(one)} values", f"{len(other)} values"
        return f"{name}[{place}]", one[place], other[place]
    for name in _KEPT:
        one, other = (_with_times(each, name) for each in (recorded, computed))
        if missing := other - one:
            return f"{name}_keys", f"without {min(missing)}", f"with {min(missing)}"
    return None


def _with_times(viewer: ViewerFeatures, name: str) -> set[tuple[int, ...]]:
    """Return the keys of a list, each with its time if the list has times."""
    columns = [getattr(viewer, f"{name}_keys")]
    if name != "followed":
        columns.append(getattr(viewer, f"{name}_times"))
    return {*zip(*columns, strict=True)}
