from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from server.candidate.release import CandidateRelease
from server.home import Home
from server.releases.weights import Quotas
from training.evaluation.held_out import HeldOutWatches, last_held_out
from training.evaluation.sources import CUTOFFS, NAMES, Proposals
from training.evaluation.studies import Studies


@pytest.fixture
def held_out(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> HeldOutWatches:
    repo = trained_home.features("trained")
    return last_held_out(trained_watches, repo, release.rows, "validation")


@pytest.fixture
def proposals(release: CandidateRelease, held_out: HeldOutWatches) -> Proposals:
    return Proposals.gather(release, held_out)


def test_the_union_is_what_the_pipeline_retrieves(
    release: CandidateRelease, held_out: HeldOutWatches, proposals: Proposals
) -> None:
    from server.candidate.pipeline import CandidatePipeline, CandidateQuery

    pipeline = CandidatePipeline(release, fail_open=False)
    drawn = [pipeline.retrieve(CandidateQuery(viewer=one, count=20)) for one in held_out.viewers]
    expected = [target in found.rows for target, found in zip(held_out.targets, drawn, strict=True)]
    assert proposals.merged(release.manifest.quotas, 20).tolist() == expected
    alone = proposals.merged(Quotas({"co_watch": 0, "ease": 0, "popular": 0, "fresh": 0}), 20)
    assert alone.tolist() == proposals.alone("two_tower", 20).tolist()


def test_a_pool_has_what_any_source_has_and_is_no_larger_than_all_of_them(
    proposals: Proposals,
) -> None:
    found, size = proposals.pooled(5)
    any_source = np.any([proposals.alone(name, 5) for name in NAMES], axis=0)
    assert found.tolist() == any_source.tolist()
    assert 5 < size <= 5 * len(NAMES)


def test_sources_are_studied_on_both_parts(studies: Studies, trained_home: Home) -> None:
    found = studies.sources()
    path = trained_home.run("trained") / "report" / "sources.json"
    assert json.loads(path.read_text()) == found
    for part in (found, found["validation"]):
        assert set(part["alone"]) == set(part["without"]) == set(NAMES)
        assert set(part["union"]) == set(part["pooled"]) == {str(count) for count in CUTOFFS}


def test_quotas_are_tried_best_first(studies: Studies) -> None:
    recalls = [one["recall"] for one in studies.quotas()]
    assert recalls == sorted(recalls, reverse=True)
