from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vireo.server.releases.manifest import FeatureSchema, Manifest, ScoreWeights


@pytest.fixture(scope="session")
def of_films() -> Manifest:
    """That of release "r-1", trained on data set "films"."""
    return Manifest(
        release_id="r-1",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        dataset="films",
        code_commit="unknown",
        data_fingerprint="abc",
        holdout="last",
        feature_schema=FeatureSchema.ours(history_limit=5, vector_size=4),
        score_weights=ScoreWeights(),
        metrics={},
        files={},
    )
