"""Candidates of a release for a viewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
)
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Quotas


def retrieve(
    release: CandidateRelease, viewer: ViewerFeatures, count: int, **more: Any
) -> RetrievedCandidates:
    """Return the candidates for a query, of a pipeline in which no source may fail."""
    pipeline = CandidatePipeline(release, fail_open=False)
    return pipeline.retrieve(CandidateQuery(viewer, count, **more))


def with_quotas(release: CandidateRelease, quotas: Quotas) -> CandidateRelease:
    """Return a release whose manifest states other quotas."""
    return replace(release, manifest=release.manifest.model_copy(update={"quotas": quotas}))
