"""Candidates of a release for a viewer."""

from __future__ import annotations

from typing import Any

from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
)
from vireo.server.recommend.retrieval.release import CandidateRelease


def retrieve(
    release: CandidateRelease, viewer: ViewerFeatures, count: int, **more: Any
) -> RetrievedCandidates:
    """Return the candidates for a query, of a pipeline in which no source may fail."""
    pipeline = CandidatePipeline(release, fail_open=False)
    return pipeline.retrieve(CandidateQuery(viewer, count, **more))
