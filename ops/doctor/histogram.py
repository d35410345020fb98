"""Percentiles of what a Prometheus histogram counted within the window."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vireo.ops.doctor.facts import Page


def quantile(pages: Iterable[Page], metric: str, share: float, **labels: str) -> float:
    """Return a quantile over all pages, interpolated within its bucket as Prometheus does.

    Args:
        pages: read twice each.
        metric: name of the histogram, without `_bucket`.
        share: 0.5 is the median.
        labels: of the samples that count.

    Returns:
        The quantile; NaN if nothing was counted. The highest bound if it is beyond that.
    """
    counts: dict[float, float] = {}
    for page in pages:
        bounds = {each["le"] for each, _ in page.samples(f"{metric}_bucket", **labels)}
        for le in bounds:
            grown = page.increase(f"{metric}_bucket", **labels, le=le)
            counts[float(le)] = counts.get(float(le), 0.0) + grown
    total = counts.get(math.inf, 0.0)
    if not total:
        return math.nan
    rank, below, begin = share * total, 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= rank:
            if math.isinf(bound):
                return begin
            return begin + (bound - begin) * (rank - below) / (count - below)
        below, begin = count, bound
    return begin
