"""Videos that an item-to-item model expects of a viewer of these watches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vireo.v1 import viewer_pb2

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class EaseSource:
    """Proposes by EASE score; nothing without a watch, or of a catalogue too large for EASE."""

    name: str = "ease"
    source: viewer_pb2.Source.ValueType = viewer_pb2.SOURCE_EASE
    fail_open: bool = True

    def propose(self, query: Retrieval) -> Candidates:
        """The videos that what was watched speaks for, strongest first."""
        rows = np.flatnonzero(query.ease_scores > 0)
        return query.proposed(query.best(rows, query.ease_scores[rows]), self.source)
