"""Videos nearest to the viewer tower's embedding."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class TwoTowerSource:
    """Proposes by index search. Over-fetching and masking is as fast as excluding inside it."""

    name: str = "two_tower"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_TWO_TOWER
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The nearest videos, nearest first; the whole catalogue where it is no larger."""
        return query.proposed(query.release.nearest(query.vector, query.wanted), self.source)
