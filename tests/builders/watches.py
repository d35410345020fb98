"""Small tables in the form of a data set's, whose watches follow a rule that can be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from vireo.training.retrieval.data import RetrievalData

EPOCH = pd.Timestamp("2024-01-01", tz="UTC")


def videos_frame(ids: Sequence[str], tags: Sequence[Sequence[str]] | None = None) -> pd.DataFrame:
    """`videos.parquet` of these ids; without tags there is no content but equal titles."""
    return pd.DataFrame(
        {
            "video_id": list(ids),
            "title": [""] * len(ids),
            "tags": [list(bag) for bag in tags] if tags else [[] for _ in ids],
            "published": pd.Series([pd.NaT] * len(ids), dtype="datetime64[us, UTC]"),
            "duration": pd.Series([None] * len(ids), dtype="float32"),
            "creator": [None] * len(ids),
        }
    )


def watches_frame(sequences: Mapping[str, Sequence[str]], held_out: int = 1) -> pd.DataFrame:
    """`watches.parquet` in which each viewer watches these videos an hour apart.

    The last `held_out` watches of each are the validation part, the rest is train.
    """
    records = [
        {
            "viewer_id": viewer,
            "video_id": video,
            "time": EPOCH + pd.Timedelta(hours=step),
            "liked": 0.0,
            "finished": float("nan"),
            "part": "validation" if step >= len(sequence) - held_out else "train",
        }
        for viewer, sequence in sorted(sequences.items())
        for step, video in enumerate(sequence)
    ]
    columns = ["viewer_id", "video_id", "time", "liked", "finished", "part"]
    return pd.DataFrame(records, columns=columns)


def viewers_frame(attributes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """`viewers.parquet` with these attributes; a viewer may be missing."""
    return pd.DataFrame(
        {
            "viewer_id": list(attributes),
            "attributes": [list(bag) for bag in attributes.values()],
        }
    )


def towers_data(
    walks: Mapping[str, Sequence[str]],
    ids: Sequence[str],
    tags: Sequence[Sequence[str]] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    held_out: int = 1,
) -> RetrievalData:
    """What the towers learn from of viewers who walk through some of these videos."""
    videos, viewers = videos_frame(ids, tags), viewers_frame(attributes or {})
    return RetrievalData.build(watches_frame(walks, held_out), videos, viewers)
