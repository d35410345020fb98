"""Measurements of a trained release for the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from vireo.server.home import Home
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.gate import judge
from vireo.server.releases.manifest import Manifest
from vireo.training.evaluation.chain import ChainAnswers, run_chain
from vireo.training.release import comparison
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


class Grown:
    """The candidates of a release with as many further videos, which nobody is shown."""

    def __init__(self, candidates: CandidateRelease) -> None:
        self.smaller = candidates
        self.keys = np.concatenate([candidates.keys, candidates.keys + 1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.smaller, name)


def test_the_coverage_of_a_catalogue_that_grew_is_compared_by_the_smaller_one(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    trained_repo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_smaller(candidates: Any, *given: Any) -> ChainAnswers:
        return run_chain(getattr(candidates, "smaller", candidates), *given)

    monkeypatch.setattr(comparison, "run_chain", run_smaller)
    release = LoadedRelease.load(trained_home.staged_release("trained"))
    grown = replace(release, candidates=cast("Any", Grown(release.candidates)))
    shares = []
    for pair in ([release, grown], [grown, release]):
        found = measure(pair, trained_watches, trained_repo, max_viewers=1000)
        assert found is not None
        [check] = [
            each for each in judge(found[0], found[1]).checks if each.measure == "coverage_10"
        ]
        assert not check.refused
        shares.append((check.now, check.candidate))
    (now, candidate), (of_grown, of_smaller) = shares
    assert now == candidate == of_smaller == 2 * of_grown > 0
