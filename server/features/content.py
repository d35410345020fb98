"""Content of a video, that is all that is known besides its id, as a bag of tokens."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from server.arrays import Int32Array

CONTENT_LIMIT = 24
"""Maximum tokens of a video that a model reads; further ones are ignored."""


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


def content_ids(bags: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> Int32Array:
    """Return ids of the known tokens of each video, 0-padded, int32[n, CONTENT_LIMIT]."""
    ids = np.zeros((len(bags), CONTENT_LIMIT), np.int32)
    for row, bag in enumerate(bags):
        known = [vocabulary[token] for token in bag if token in vocabulary][:CONTENT_LIMIT]
        ids[row, : len(known)] = known
    return ids
