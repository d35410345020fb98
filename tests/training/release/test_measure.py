"""Measurements of a trained release for the gate."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from vireo.server.home import Home
from vireo.server.releases.gate import judge
from vireo.server.releases.gate_measures import Measured
from vireo.server.releases.manifest import Manifest
from vireo.training.release.comparison import LoadedRelease, measure


@pytest.fixture(scope="module")
def release(trained_home: Home) -> LoadedRelease:
    return LoadedRelease.load(trained_home.staged_release("trained"))


@pytest.fixture
def measured(
    release: LoadedRelease, trained_home: Home, trained_watches: pd.DataFrame
) -> Callable[..., list[Measured]]:
    """Return a function that measures the trained release beside another, by default itself."""

    def both(other: LoadedRelease = release, max_viewers: int = 1000) -> list[Measured]:
        repo = trained_home.features("trained")
        found = measure([release, other], trained_watches, repo, max_viewers=max_viewers)
        assert found is not None
        return found

    return both


def test_the_gate_measures_what_the_evaluation_does(
    measured: Callable[..., list[Measured]], manifest: Manifest
) -> None:
    now, candidate = measured()
    checks = {check.measure: check for check in judge(now, candidate).checks}
    for ours in ("ndcg_10", "recall_100", "coverage_10"):
        assert checks[ours].now == checks[ours].candidate
        assert checks[ours].now == pytest.approx(manifest.metrics[f"chain.{ours}"])
    assert 0 < checks["inference_p50"].now < 1


def test_where_no_held_out_video_is_known_nothing_is_measured(
    release: LoadedRelease, trained_home: Home, trained_watches: pd.DataFrame
) -> None:
    unknown = trained_watches.assign(video_id="nobody knows it")
    repo = trained_home.features("trained")
    assert measure([release, release], unknown, repo, max_viewers=9) is None
