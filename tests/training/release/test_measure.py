"""Measurements of a trained release for the gate."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vireo.server.home import Home
from vireo.server.releases.gate import judge
from vireo.server.releases.manifest import Manifest
from vireo.training.release.comparison import LoadedRelease, measure


def test_the_gate_measures_what_the_evaluation_does_and_nothing_of_unknown_videos(
    trained_home: Home, trained_watches: pd.DataFrame, trained_repo: Path, manifest: Manifest
) -> None:
    release = LoadedRelease.load(trained_home.staged_release("trained"))
    found = measure([release, release], trained_watches, trained_repo, max_viewers=1000)
    assert found is not None
    checks = {check.measure: check for check in judge(found[0], found[1]).checks}
    for ours in ("ndcg_10", "recall_100", "coverage_10"):
        assert checks[ours].now == checks[ours].candidate
        assert checks[ours].now == pytest.approx(manifest.metrics[f"chain.{ours}"])
    assert 0 < checks["inference_p50"].now < 1
    unknown = trained_watches.assign(video_id="nobody knows it")
    assert measure([release, release], unknown, trained_repo, max_viewers=9) is None
