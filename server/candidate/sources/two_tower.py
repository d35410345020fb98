"""Videos nearest to the viewer tower's embedding."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class TwoTowerSource:
    """Proposes by index search, in which watched and excluded videos are passed over."""

    name: str = "two_tower"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_TWO_TOWER
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The nearest videos, nearest first; all that are left where there are no more."""
        rows = query.release.index.nearest(query.vector, query.query.count, query.blocked_rows)
        return query.proposed(rows, self.source)
