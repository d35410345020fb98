"""Builds small archives of slates and events, as the consumer writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from vireo.server.signals import SOURCES

START = datetime(2026, 11, 30, 12, tzinfo=UTC)
_TIME = pa.timestamp("us", tz="UTC")
_FLOATS, _TEXTS = pa.list_(pa.float32()), pa.list_(pa.string())
_TYPES = {
    "sequence": pa.int64(),
    "answered_at": _TIME,
    "shown_before": pa.int32(),
    "video_ids": _TEXTS,
    "item_sources": pa.list_(pa.uint32()),
    "placements": _TEXTS,
    "propensities": _FLOATS,
    "at": _TIME,
    "received_at": _TIME,
    "watched_seconds": pa.float64(),
    "watched_fraction": pa.float32(),
    "position": pa.int32(),
}
_numbers = count(1)


def after(seconds: float) -> datetime:
    """Return a time some seconds after START."""
    return START + timedelta(seconds=seconds)


def slate(request: str, viewer: str, videos: str, at: float = 0, **changes: Any) -> dict[str, Any]:
    """Return a ranked slate of some videos, separated by spaces."""
    names = videos.split()
    return {
        "request_id": request,
        "viewer_id": viewer,
        "sequence": next(_numbers),
        "answered_at": after(at),
        "surface": "home",
        "shown_before": 0,
        "arm": "production",
        "release_id": "r-1",
        "video_ids": names,
        "item_sources": [SOURCES[0].bit] * len(names),
        "placements": ["score"] * len(names),
        "propensities": [1.0] * len(names),
        **changes,
    }


def event(
    kind: str, viewer: str, video: str, at: float = 1, request: str = "", **changes: Any
) -> dict[str, Any]:
    """Return an event with an id of its own, received when it happened."""
    number = next(_numbers)
    return {
        "event_id": f"e{number}",
        "viewer_id": viewer,
        "kind": kind,
        "video_id": video,
        "at": after(at),
        "received_at": after(at),
        "watched_seconds": None,
        "watched_fraction": None,
        "request_id": request,
        "position": 0,
        "sequence": number,
        **changes,
    }


def write_archive(
    folder: Path,
    slates: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]] = (),
    hour: datetime = START,
) -> Path:
    """Write a file of an hour for each kind that has rows; return the folder, as if fetched."""
    for kind, rows in (("slates", slates), ("events", events)):
        place = folder / kind / f"{hour:date=%Y-%m-%d/hour=%H}"
        if rows:
            place.mkdir(parents=True, exist_ok=True)
            columns = {
                name: pa.array([row[name] for row in rows], _TYPES.get(name, pa.string()))
                for name in rows[0]
            }
            number = len([*place.iterdir()])
            pa.parquet.write_table(pa.table(columns), place / f"0-{number:020}-{0:016x}.parquet")
    return folder


def files_of(folder: Path, kind: str) -> list[Path]:
    """Return the files of a kind, "slates" or "events"."""
    return sorted(folder.glob(f"{kind}/*/*/*.parquet"))
