"""Videos' content as sparse rows of tf-idf weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse


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
