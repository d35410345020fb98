"""Videos watched most of late, by anyone."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class PopularSource:
    """Proposes enough of the popular list to fill an answer alone, should the others fail."""

    name: str = "popular"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_POPULAR
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The most popular videos, most popular first."""
        return query.proposed(query.release.popular_rows[: query.wanted], self.source)
