"""Videos that archived slates showed, each with what its viewer then did with it.

An event that names a request belongs to that request's slate, if the archive has it; one that names
none belongs to the latest slate that showed its video to its viewer. No event belongs to two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import BoolArray, Int32Array, Int64Array
from vireo.server.consumer.archived_rows import EVENT_ROWS, SLATE_ROWS, rows_in

WINDOW_SECONDS = 86_400.0
IMPRESSIONS = b"vireo.impressions"
"""Key of the table's metadata; its value is "reported", or "none" if no event is an impression."""
_SKEW_MICROS = 60_000_000
"""Microseconds by which the clock of an event with a request id may be behind the gateway's."""
_TEXTS = ("request_id", "viewer_id", "surface", "release_id", "arm")
"""Columns of slates that each of its videos has."""
_SLATES = (
    *(*_TEXTS, "sequence", "answered_at", "shown_before", "video_ids", "placements"),
    *("item_sources", "propensities"),
)
_EVENTS = (
    *("event_id", "viewer_id", "kind", "video_id", "request_id", "position", "sequence"),
    *("at", "received_at", "watched_seconds", "watched_fraction"),
)


def shown_videos(
    slates: Sequence[Path], events: Sequence[Path], window: float = WINDOW_SECONDS
) -> pa.Table:
    """Return a row for each video of each slate, by the slate's time and the video's position.

    Of slates with the same request id the first counts, of a viewer's events with the same id the
    last.

    Args:
        slates: Parquet files of the archive.
        events: Parquet files of the archive.
        window: maximum seconds from a slate to an event that doesn't name its request.

    Returns:
        `request_id`, `viewer_id`, `video_id`, `surface`, `release_id`, `arm`; `answered_at`;
        `position`, from 1, across pages; `sources`, a mask; `placement` and `propensity`, null if
        not ranked. Outcomes: `seen`, all true if no event is an impression, which the metadata
        says under IMPRESSIONS; `played`, `finished`, `liked`, `hidden`, `followed`;
        `watched_seconds`, the sum of its plays', and `watched_fraction`, the largest, null if
        unknown.
    """
    slate = _once_each(rows_in(SLATE_ROWS, slates).to_table(columns=[*_SLATES]))
    lists = slate["video_ids"].combine_chunks()
    # Row of the slate of each shown video, and the video's place in it.
    of: Int64Array = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    place = np.arange(len(of)) - np.searchsorted(of, of)
    video_ids = pc.list_flatten(lists).dictionary_encode()

    event = rows_in(EVENT_ROWS, events).to_table(columns=[*_EVENTS])
    reported = bool(pc.any(pc.equal(event["kind"], "impression")).as_py())
    viewers = pc.unique(slate["viewer_id"])
    shown = pd.DataFrame(
        {
            "slate": of.astype(np.int32),
            "viewer": _codes(slate["viewer_id"], viewers)[of],
            "video": video_ids.indices.to_numpy(),
            "answered_at": _micros(slate["answered_at"])[of],
            "place": place.astype(np.int32),
            "row": np.arange(len(of)),
        }
    )
    coded = _coded(event, viewers, video_ids.dictionary, slate["request_id"])
    joined = _attributed(coded, shown, int(window * 1e6))

    columns = {name: _encoded(slate[name]).take(of) for name in _TEXTS}
    columns |= {
        "answered_at": slate["answered_at"].take(of),
        "video_id": video_ids,
        "position": pc.add(slate["shown_before"].take(of), pa.array(place + 1, pa.int32())),
        "sources": _at(slate["item_sources"], of, place),
        "placement": _at(slate["placements"], of, place).dictionary_encode(),
        "propensity": _at(slate["propensities"], of, place),
        **_outcomes(joined, len(of), reported),
    }
    metadata = {IMPRESSIONS: "reported" if reported else "none"}
    return pa.table(columns).replace_schema_metadata(metadata)


def _once_each(slates: pa.Table) -> pa.Table:
    """Return the first slate of each request, sorted by time."""
    slates = slates.sort_by([("answered_at", "ascending"), ("sequence", "ascending")])
    requests = _encoded(slates["request_id"]).indices.to_numpy()
    return slates.take(np.sort(np.unique(requests, return_index=True)[1]))


def _encoded(texts: Any) -> Any:
    """Return a column as one dictionary array."""
    return texts.combine_chunks().dictionary_encode()


def _codes(texts: Any, known: Any) -> Int32Array:
    """Return the place of each text among those that are known, -1 if it isn't, int32[n]."""
    return np.asarray(pc.index_in(texts, value_set=known).fill_null(-1), np.int32)


def _micros(times: Any) -> Int64Array:
    """Return times as Unix microseconds, int64[n]."""
    return np.asarray(times.cast(pa.int64()), np.int64)


def _at(lists: Any, of: Int64Array, place: Int64Array) -> Any:
    """Return the value at a place of a row's list, null if the list is shorter, for each pair."""
    array = lists.combine_chunks()
    offsets = array.offsets.to_numpy()
    index = offsets[of] + place
    return array.values.take(pa.array(index, mask=index >= offsets[of + 1]))


def _coded(events: pa.Table, viewers: Any, videos: Any, requests: Any) -> pd.DataFrame:
    """Return each event of these viewers once, with the codes that shown videos have.

    `slate` is -1 if an event names no request of the archive, `video` if no slate showed it.
    """
    events = events.filter(pc.is_in(events["viewer_id"], value_set=viewers))
    events = events.sort_by([("received_at", "ascending"), ("sequence", "ascending")])
    columns = {
        "id": _encoded(events["event_id"]).indices.to_numpy(),
        "viewer": _codes(events["viewer_id"], viewers),
        "video": _codes(events["video_id"], videos),
        "slate": _codes(events["request_id"], requests),
        "requested": pc.not_equal(events["request_id"], "").to_numpy(),
        "place": events["position"].to_numpy() - 1,
        "unnamed": pc.equal(events["video_id"], "").to_numpy(),
        "at": _micros(events["at"]),
        "kind": _encoded(events["kind"]).to_pandas(),
        "seconds": events["watched_seconds"].to_numpy(),
        "fraction": events["watched_fraction"].to_numpy(),
    }
    return pd.DataFrame(columns).drop_duplicates(["viewer", "id"], keep="last")


def _attributed(events: pd.DataFrame, shown: pd.DataFrame, window: int) -> pd.DataFrame:
    """Return the events that belong to a shown video, with its `row`; `window` in microseconds."""
    requested = events["requested"]
    named = events[requested].drop(columns="place")
    named = named.merge(shown.drop_duplicates(["slate", "video"]), on=["slate", "viewer", "video"])
    # A follow that names a creator alone has its video at its position.
    follows = events[requested & events["unnamed"]].drop(columns="video")
    near = shown[shown["slate"].isin(follows["slate"])]
    by_request = pd.concat([named, follows.merge(near, on=["slate", "viewer", "place"])])
    latest = pd.merge_asof(
        events[~requested].drop(columns=["slate", "place"]).sort_values("at"),
        shown,
        left_on="at",
        right_on="answered_at",
        by=["viewer", "video"],
        tolerance=window,
    ).dropna(subset="row")
    early = by_request["at"] < by_request["answered_at"] - _SKEW_MICROS
    return pd.concat([by_request[~early], latest]).astype({"row": np.int64})


def _outcomes(joined: pd.DataFrame, count: int, reported: bool) -> dict[str, Any]:
    """Return the columns of outcomes of `count` shown videos."""
    kind = joined["kind"]
    plays = joined[kind.isin(["play", "finish"])]
    fractions = plays["fraction"].mask(plays["kind"] == "finish", 1.0).groupby(plays["row"]).max()
    seconds = plays["seconds"].groupby(plays["row"]).sum(min_count=1)

    def any_of(*kinds: str) -> BoolArray:
        found = np.zeros(count, np.bool_)
        found[joined["row"][kind.isin(kinds)]] = True
        return found

    fraction = fractions.reindex(range(count)).astype(np.float32)
    return {
        "seen": any_of("impression") if reported else np.ones(count, np.bool_),
        "played": any_of("play", "finish"),
        "finished": (fraction >= 1).to_numpy(),
        "liked": any_of("like"),
        "hidden": any_of("hide", "not_interested"),
        "followed": any_of("follow"),
        "watched_seconds": pa.array(seconds.reindex(range(count)), from_pandas=True),
        "watched_fraction": pa.array(fraction, from_pandas=True),
    }
