"""Content of a video, that is all that is known besides its id, as a bag of tokens."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from server.arrays import Int32Array

CONTENT_LIMIT = 24
"""Maximum tokens of a video that the model reads; further ones are ignored."""
VOCABULARY_LIMIT = 50_000
"""Maximum size of the vocabulary; rarer tokens are left out."""
SHARED_BY = 2
"""Minimum videos that share a token; a rarer one adds nothing to the id."""


def content_tokens(
    title: str, tags: Iterable[str], year: int | None, duration: float | None
) -> list[str]:
    """Return the distinct tokens of one video, the most informative kinds first.

    Args:
        title: its words are tokens, in lower case.
        tags: one token each.
        year: of publication; the year and its decade are tokens.
        duration: seconds; a token for each half power of two.
    """
    tokens = [f"tag={tag}" for tag in tags]
    if year is not None:
        tokens += [f"decade={year // 10}", f"year={year}"]
    if duration is not None and duration > 0:
        tokens.append(f"duration={round(2 * math.log2(duration))}")
    tokens += [f"word={word}" for word in re.findall(r"\w+", title.lower())]
    # Many videos share a token, so interning saves memory.
    return [sys.intern(token) for token in dict.fromkeys(tokens)]


def catalogue_tokens(videos: pd.DataFrame) -> list[list[str]]:
    """Return the tokens of each video of `videos.parquet`, in its order."""
    years = [None if pd.isna(time) else int(time.year) for time in videos["published"]]
    durations = [None if pd.isna(seconds) else float(seconds) for seconds in videos["duration"]]
    return [
        content_tokens(title, tags, year, duration)
        for title, tags, year, duration in zip(
            videos["title"], videos["tags"], years, durations, strict=True
        )
    ]


def shared_vocabulary(bags: Iterable[Sequence[str]]) -> dict[str, int]:
    """Number the tokens that at least SHARED_BY bags have from 1, the most frequent first."""
    counts = Counter(token for bag in bags for token in set(bag))
    common = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:VOCABULARY_LIMIT]
    shared = [token for token, count in common if count >= SHARED_BY]
    return {token: index for index, token in enumerate(shared, start=1)}


def content_ids(bags: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> Int32Array:
    """Return ids of the known tokens of each video, 0-padded, int32[n, CONTENT_LIMIT]."""
    ids = np.zeros((len(bags), CONTENT_LIMIT), np.int32)
    for row, bag in enumerate(bags):
        known = [vocabulary[token] for token in bag if token in vocabulary][:CONTENT_LIMIT]
        ids[row, : len(known)] = known
    return ids


def weighted_bags(content: npt.NDArray[np.integer]) -> sparse.csr_array:
    """Return rows of unit length over the tokens, weighted by inverse document frequency (tf-idf).

    Args:
        content: token ids of each video, 0-padded, int[n, c]; no token twice in a row.

    Returns:
        float64[n, tokens + 1], sparse; a row without tokens is 0.
    """
    n, most = content.shape
    videos, tokens = np.repeat(np.arange(n), most), content.ravel()
    videos, tokens = videos[tokens > 0], tokens[tokens > 0]
    frequency = np.bincount(tokens, minlength=1)
    weights = np.log((n + 1) / (1 + frequency))[tokens]
    norms = np.sqrt(np.bincount(videos, weights**2, minlength=n))
    weights = weights / np.maximum(norms, 1e-12)[videos]
    bags: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (weights, (videos, tokens)), shape=(n, len(frequency))
    )
    return bags
