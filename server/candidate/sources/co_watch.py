"""Videos that viewers watched soon after those in this viewer's recent history."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class CoWatchSource:
    """Proposes by co-watch score, ties by key; nothing for a viewer without history."""

    name: str = "co_watch"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_CO_WATCH
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The videos that the history leads to, strongest first."""
        rows, scores = query.co_watched
        return query.proposed(query.best(rows, scores), self.source)
