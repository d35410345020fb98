"""Columns of candidates' scores, as requests to ranking pods have them."""

from __future__ import annotations

from collections.abc import Iterable

from vireo.v1 import viewer_pb2

from server.signals import SCORES


def score_columns(values: Iterable[float]) -> list[viewer_pb2.ScoreColumn]:
    """Return every declared score, with the same values."""
    values = list(values)
    return [viewer_pb2.ScoreColumn(name=score.name, values=values) for score in SCORES]
