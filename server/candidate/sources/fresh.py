"""New and hardly watched videos, which the other sources are slow to find."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class FreshSource:
    """Proposes by two-tower score: what such videos have of it, they have from their content."""

    name: str = "fresh"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_FRESH
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The release's fresh videos, nearest first."""
        rows = query.release.fresh_rows
        scores = query.release.fresh_vectors @ query.vector
        return query.proposed(query.best(rows, scores), self.source)
