"""Who watched what first, and which of it is for training, validation and test."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from training.data.schema import WATCH_EVENTS

Holdout = Literal["last", "none"]
LIKED_RATING = 4.0
"""A rating from here on says that the video was liked."""
LIKED_FRACTION = 0.8
"""In data without any rating, so does having watched this much of it."""
FEWEST_WATCHES = 3
"""Viewers with fewer watches are for training alone."""
VALIDATION_WATCHES = 2
"""How many of a viewer's watches before the test watch are for validation."""
VALIDATION_SHARE = 5
"""But at most one in so many of those before the test watch, and at least one."""


def split_watches(interactions: pd.DataFrame, holdout: Holdout) -> pd.DataFrame:
    """One row per (viewer, video): the first watch, and the part it belongs to.

    Args:
        interactions: rows as in `training.data.schema.INTERACTIONS`.
        holdout: "last": each viewer's last watch is for test (where the data set came with
            a test part, that is), the VALIDATION_WATCHES before for validation. "none":
            nothing is for test, the last VALIDATION_WATCHES are for validation.

    Returns:
        `viewer_id`, `video_id` str; `time` datetime64[us, UTC], increasing within a viewer:
        see `_strictly_increasing`; `liked` bool; `liked_time` datetime64[us, UTC]: since when
        that is known, null where it isn't liked; `part` str: "train", "validation" or "test".
        Sorted by viewer, then time.
    """
    events = interactions.sort_values(["timestamp", "row"], kind="stable")
    events = events[events["event"].isin(WATCH_EVENTS)]
    pair = ["viewer_id", "video_id"]
    watches = events.drop_duplicates(pair)[[*pair, "timestamp", "held_out"]]
    likes = events[_liked(events)].drop_duplicates(pair)[[*pair, "timestamp"]]
    watches = watches.merge(
        likes.rename(columns={"timestamp": "liked_time"}), how="left", on=pair, sort=False
    )
    watches = watches.sort_values("viewer_id", kind="stable", ignore_index=True)
    raw_time = watches["timestamp"]
    watches["time"] = _strictly_increasing(raw_time, watches["viewer_id"])
    watches["part"] = _parts(watches, holdout)
    # Liked when it was watched: known together. Liked later: known from then on.
    late = watches["liked_time"] > raw_time
    known = watches["liked_time"].where(late, watches["time"])
    known = known.where(known > watches["time"], watches["time"])
    known = known.where(watches["liked_time"].notna() & ~_after_test(watches, known))
    watches["liked_time"] = known
    watches["liked"] = known.notna()
    return watches[["viewer_id", "video_id", "time", "liked", "liked_time", "part"]]


def _liked(events: pd.DataFrame) -> pd.Series:
    """Whether each event says that the video was liked."""
    liked = events["event"] == "like"
    if events["rating"].notna().any():
        return liked | (events["rating"] >= LIKED_RATING)
    return liked | (events["watched_fraction"] >= LIKED_FRACTION)


def _strictly_increasing(time: pd.Series, viewer: pd.Series) -> pd.Series:
    """Times such that no two watches of a viewer share one; rows are in order already.

    A watch at the time of the one before it is put one microsecond after it. Point-in-time
    joins then tell each watch from the one before, so that a label sees everything that
    came earlier in the file and nothing else.
    """
    position = viewer.groupby(viewer, sort=False).cumcount().to_numpy()
    micros = time.astype("int64").to_numpy() - position
    latest = pd.Series(micros).groupby(viewer.to_numpy(), sort=False).cummax().to_numpy()
    return pd.Series((latest + position).view("datetime64[us]"), time.index).dt.tz_localize("UTC")


def _parts(watches: pd.DataFrame, holdout: Holdout) -> pd.Series:
    """The part of each watch; rows are sorted by viewer, then time."""
    viewer = watches["viewer_id"]
    count = viewer.groupby(viewer, sort=False).transform("size")
    enough = count >= FEWEST_WATCHES
    packaged = bool(watches["held_out"].any())
    if holdout == "none":
        test = pd.Series(False, watches.index)
    elif packaged:
        test = watches["held_out"]
    else:
        test = enough & ~viewer.duplicated(keep="last")
    rest = viewer[~test]
    groups = rest.groupby(rest, sort=False)
    wanted = (groups.transform("size") // VALIDATION_SHARE).clip(1, VALIDATION_WATCHES)
    validation = enough[~test] & (groups.cumcount(ascending=False) < wanted)
    part = pd.Series("train", watches.index)
    part[test] = "test"
    part[validation.index[validation]] = "validation"
    return part


def _after_test(watches: pd.DataFrame, known: pd.Series) -> np.ndarray:
    """Which watches before a viewer's test watch were liked only after it.

    Whoever stands before the test watch can't know of them, so they don't count.
    """
    test = watches[watches["part"] == "test"]
    moment = watches["viewer_id"].map(test.groupby("viewer_id")["time"].min())
    outside = watches["part"] != "test"
    return (outside & (known >= moment)).to_numpy()
