from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vireo.server.candidate.release import CandidateRelease
from vireo.server.home import Home
from vireo.server.pipeline.candidates import Candidates
from vireo.server.releases.manifest import MANIFEST_NAME
from vireo.server.releases.weights import Quotas
from vireo.training.evaluation.held_out import HeldOutWatches, last_held_out
from vireo.training.evaluation.sources import CUTOFFS, FIT_VIEWERS, NAMES, Proposals, fit_quotas
from vireo.training.evaluation.studies import Studies
from vireo.training.features.publication import of_the_past
from vireo.training.fit import with_quotas


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
    from vireo.server.candidate.pipeline import CandidatePipeline, CandidateQuery

    past, embargo = of_the_past(release)
    pipeline = CandidatePipeline(past, fail_open=False)
    expected = []
    for viewer, target in zip(held_out.viewers, held_out.targets.tolist(), strict=True):
        embargo.ask(viewer.asked_at, target)
        expected.append(target in pipeline.retrieve(CandidateQuery(viewer=viewer, count=20)).rows)
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


def test_quotas_are_shown_best_first(studies: Studies) -> None:
    recalls = [one["recall"] for one in studies.quotas()]
    assert recalls == sorted(recalls, reverse=True)


def made(**places: int | None) -> Proposals:
    """100 viewers, each with the target at a place of some sources' lists of 100, from 0."""

    def listed(start: int, place: int | None) -> Candidates:
        rows = np.arange(start, start + 100)
        if place is not None:
            rows[place] = 5000
        return Candidates(rows, rows, np.ones(100, np.uint32))

    proposed = {name: listed(100 * n, places.get(name)) for n, name in enumerate(NAMES)}
    return Proposals(Quotas(), (proposed,) * 100, np.full(100, 5000))


def test_a_source_has_the_quota_that_adds_to_recall() -> None:
    first, *_, last = fit_quotas(made(ease=12, co_watch=99), 100)
    assert first == {"co_watch": 0, "ease": 0, "popular": 0, "fresh": 0.02, "recall": 0}
    assert last == {"co_watch": 0, "ease": 0.2, "popular": 0, "fresh": 0.02, "recall": 1}


def test_a_source_that_adds_nothing_is_switched_off() -> None:
    [only] = fit_quotas(made(two_tower=97, ease=0, popular=1), 100)
    assert only == {"co_watch": 0, "ease": 0, "popular": 0, "fresh": 0.02, "recall": 1}
    assert len(fit_quotas(made(), 100)) == 1


def test_towers_that_find_nothing_leave_their_places_to_the_others() -> None:
    some = [made(ease=place) for place in range(0, 65, 5)]
    some += [made(co_watch=place) for place in range(0, 30, 5)]
    proposed = tuple(own for each in some for own in each.proposed)
    targets = np.concatenate([each.targets for each in some])
    last = fit_quotas(Proposals(Quotas(), proposed, targets), 100)[-1]
    assert last == {"co_watch": 0.3, "ease": 0.65, "popular": 0, "fresh": 0.02, "recall": 1}


def test_training_fits_the_quotas_to_validation(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease, tmp_path: Path
) -> None:
    repo, console = trained_home.features("trained"), Console(file=io.StringIO(), width=300)
    held_out = last_held_out(trained_watches, repo, release.rows, "validation", FIT_VIEWERS)
    staged = replace(release, folder=Path(shutil.copytree(release.folder, tmp_path / "staged")))
    found = with_quotas(staged, trained_watches, repo, 20, console)
    fitted = fit_quotas(Proposals.gather(release, held_out, 20), 20)[-1]
    assert found.manifest.quotas.root == {name: fitted[name] for name in NAMES if name in fitted}
    written = json.loads((staged.folder / MANIFEST_NAME).read_text())
    assert written["quotas"] == found.manifest.quotas.root
    assert isinstance(console.file, io.StringIO)
    assert f"20 candidates hold {fitted['recall']:.1%}" in console.file.getvalue()


def test_a_catalogue_that_is_retrieved_as_a_whole_keeps_its_quotas(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> None:
    repo = trained_home.features("trained")
    count = len(release.keys)
    assert with_quotas(release, trained_watches, repo, count, Console(quiet=True)) is release


def test_of_more_viewers_the_same_sample_is_drawn(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> None:
    repo = trained_home.features("trained")
    first, again, every = (
        last_held_out(trained_watches, repo, release.rows, "validation", limit)
        for limit in (7, 7, None)
    )
    assert len(every.viewers) > 7
    assert len(first.viewers) == 7
    assert first.targets.tolist() == again.targets.tolist()
    known = {
        (viewer.asked_at, row) for viewer, row in zip(every.viewers, every.targets, strict=True)
    }
    assert {(v.asked_at, row) for v, row in zip(first.viewers, first.targets, strict=True)} <= known
