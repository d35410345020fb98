"""How many places of an answer each source is sure of, and the union that follows."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


class Quotas(BaseModel):
    """Shares of the answer kept for the best of a source; two-tower gets what is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    co_watch: float = Field(default=0.2, ge=0, le=1)
    popular: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _within_one(self) -> Quotas:
        if self.co_watch + self.popular > 1:
            raise ValueError("co_watch and popular together must be at most 1")
        return self


class QuotaMerge:
    """The union of the sources' proposals, `count` videos where there are as many.

    First come the co-watch and popular quotas, then two-tower's proposals; should that not
    do, because two-tower failed, the others' proposals past their quotas. A mask says in
    which sources' first choices a video was; a filler has its own source's bit.
    """

    name = "merge"

    def __init__(self, quotas: Quotas) -> None:
        """Takes the shares."""
        self._quotas = quotas

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """One candidate a video, in the order described above."""
        count = query.query.count
        two_tower, co_watch, popular = (
            np.flatnonzero(candidates.source_masks == 1 << source)
            for source in (
                viewer_pb2.SOURCE_TWO_TOWER,
                viewer_pb2.SOURCE_CO_WATCH,
                viewer_pb2.SOURCE_POPULAR,
            )
        )
        of_co_watch = math.floor(self._quotas.co_watch * count)
        of_popular = math.floor(self._quotas.popular * count)
        first = (co_watch[:of_co_watch], popular[:of_popular], two_tower[:count])
        order = np.concatenate([*first, co_watch[of_co_watch:], popular[of_popular:]])
        _, places, inverse = np.unique(
            candidates.rows[order], return_index=True, return_inverse=True
        )
        proposals = sum(map(len, first))
        masks = candidates.source_masks[order]
        union = masks[places]
        np.bitwise_or.at(union, inverse[:proposals], masks[:proposals])
        best = np.argsort(places)[:count]
        chosen = candidates.take(order[places[best]])
        return Candidates(chosen.keys, chosen.rows, union[best])
