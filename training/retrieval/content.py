"""Content of a catalogue: its videos' tokens, the vocabulary, and weighted bags of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from vireo.server.arrays import Float64Array
from vireo.server.features.content import content_tokens

VOCABULARY_LIMIT = 50_000
"""Maximum size of the vocabulary; rarer tokens are left out."""
SHARED_BY = 2
"""Minimum videos that share a token; a rarer one adds nothing to the id."""


def catalogue_tokens(videos: pd.DataFrame) -> list[list[str]]:
    """Return the tokens of each video of `videos.parquet`, in its order."""
    years = [None if pd.isna(time) else int(time.year) for time in videos["published"]]
    durations = [None if pd.isna(seconds) else float(seconds) for seconds in videos["duration"]]
    creators = videos["creator"] if "creator" in videos else repeat(None, len(videos))
    columns = (videos["title"], videos["tags"], years, durations, creators)
    return [content_tokens(*video) for video in zip(*columns, strict=True)]


def shared_vocabulary(bags: Iterable[Sequence[str]]) -> dict[str, int]:
    """Number the tokens that at least SHARED_BY bags have from 1, the most frequent first."""
    counts = Counter(token for bag in bags for token in set(bag))
    common = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:VOCABULARY_LIMIT]
    shared = [token for token, count in common if count >= SHARED_BY]
    return {token: index for index, token in enumerate(shared, start=1)}


def token_weights(content: npt.NDArray[np.integer]) -> Float64Array:
    """Return each token's inverse document frequency, float64[tokens + 1]; see `weighted_bags`."""
    frequency = np.bincount(content[content > 0], minlength=1)
    weights: Float64Array = np.log((len(content) + 1) / (1 + frequency))
    return weights


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
    every = token_weights(content)
    weights = every[tokens]
    norms = np.sqrt(np.bincount(videos, weights**2, minlength=n))
    weights = weights / np.maximum(norms, 1e-12)[videos]
    bags: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (weights, (videos, tokens)), shape=(n, len(every))
    )
    return bags
