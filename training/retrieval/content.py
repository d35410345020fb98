"""Content of a catalogue: tokens, their vocabulary, weighted bags, and a regression on these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from vireo.server.arrays import Float64Array, Int64Array
from vireo.server.features.content import content_tokens

VOCABULARY_LIMIT = 50_000
"""Maximum size of the vocabulary; rarer tokens are left out."""
SHARED_BY = 2
"""Minimum videos that share a token; a rarer one adds nothing to the id."""
RIDGE = 3.0
"""L2 regularisation of the regression, in videos of weight 1."""
TOKENS = 4096
"""Most frequent tokens that the regression reads: its time is cubic in their number."""


def catalogue_tokens(videos: pd.DataFrame) -> list[list[str]]:
    """Return the tokens of each video of `videos.parquet`, in its order."""
    years = [None if pd.isna(time) else int(time.year) for time in videos["published"]]
    durations = [None if pd.isna(seconds) else float(seconds) for seconds in videos["duration"]]
    columns = (videos["title"], videos["tags"], years, durations, videos["creator"])
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


@dataclass(frozen=True)
class Ridge:
    """A linear map from content to id embeddings."""

    mean: Float64Array
    """float64[d]."""
    effects: Float64Array
    """What each token adds, by its weight in the bag, float64[t + 1, d]."""
    weights: Float64Array
    """Each token's weight before a bag is brought to length 1, float64[t + 1]."""

    def of(self, content: npt.NDArray[np.integer]) -> Float64Array:
        """Return the embeddings of the catalogue that it was fitted to, float64[n, d].

        `content` is as in `fit_ridge`, int[n, c].
        """
        found: Float64Array = weighted_bags(_frequent(content)) @ self.effects
        found += self.mean
        return found


def fit_ridge(content: npt.NDArray[np.integer], counts: Int64Array, known: Float64Array) -> Ridge:
    """Fit the embeddings of the videos with watches.

    Args:
        content: token ids of each video, 0-padded, numbered from the most frequent, int[n, c].
        counts: watches of each video, int64[n].
        known: embeddings of the videos with watches, float64[m, d], weighted in the regression by
            the logarithm of the watches.
    """
    bags = weighted_bags(_frequent(content))
    seen = counts > 0
    weights = np.log1p(counts[seen])
    mean = weights @ known / weights.sum()
    read = bags[seen]
    weighted = read.T.multiply(weights).tocsr()
    gram = (weighted @ read).toarray()
    gram[np.diag_indices(len(gram))] += RIDGE
    effects = np.linalg.solve(gram, weighted @ (known - mean))
    return Ridge(mean, np.asarray(effects, np.float64), token_weights(_frequent(content)))


def _frequent(content: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    return np.where(content <= TOKENS, content, 0)
