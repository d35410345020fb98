"""Nothing that was published later is a candidate of a past request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.builders.releases import build_release
from tests.builders.viewers import viewer_of_rows
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.evaluation.choices import Proposals
from vireo.training.evaluation.systems import HeldOutWatches, TestViewers, of_chunks
from vireo.training.features.publication import of_the_past, published_of, published_times
from vireo.training.ranking.training_set import draw_candidates


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> CandidateRelease:
    return CandidateRelease.load(build_release(tmp_path_factory.mktemp("release")))


def test_candidates_are_those_published_by_the_time_of_each_request(
    release: CandidateRelease,
) -> None:
    published = published_of(release)
    unknown = published == 0
    assert unknown.any()
    moments = [int(np.quantile(published[~unknown], share)) for share in (0.9, 0.2, 0.5)]
    viewers = [replace(viewer_of_rows(3), asked_at=moment) for moment in [*moments, 0]]
    latest = int(published.argmax())
    targets = np.array([-1, latest, 0, -1])

    rows, _ = draw_candidates(release, viewers, targets, len(published))

    for moment, target, drawn in zip(moments, targets, rows, strict=False):
        wanted = set(np.flatnonzero(published <= moment)) - {3} | {target} - {-1}
        assert set(drawn[drawn >= 0]) == wanted, "what was watched was published"
    assert len(set(rows[-1]) - {-1}) == len(published) - 1, "a request without a time has all"


def test_quotas_are_fitted_to_what_was_published(release: CandidateRelease) -> None:
    published = published_of(release)
    asked_at = int(np.median(published[published > 0]))
    viewers = tuple(replace(viewer_of_rows(3), asked_at=each) for each in (asked_at, 0))

    found = Proposals.gather(release, HeldOutWatches(viewers, np.array([0, 0])), 40)

    early, whole = (np.concatenate([of.rows for of in own.values()]) for own in found.proposed)
    assert published[early].max() <= asked_at < published[whole].max()


def test_the_release_itself_still_goes_by_the_clock(release: CandidateRelease) -> None:
    past, embargo = of_the_past(release)
    embargo.ask(1, -1)
    assert len(past.embargo.unpublished()) > 0
    assert not len(release.embargo.unpublished())


def test_no_system_gains_or_loses_by_what_came_later() -> None:
    scores = np.array([[5.0, 4, 3, 2, 1]] * 3, np.float32)
    viewers = TestViewers(
        ids=("early", "late", "mistaken"),
        targets=np.array([2, 2, 0]),
        outcomes=np.zeros((3, 0), np.float32),
        watched=(np.array([4]),) * 3,
        moments=np.array([10, 30, 10]),
        published=np.array([20.0, 0, 10, 25, 5]),
    )

    report = of_chunks(lambda part: scores[part], viewers, 5)

    assert report.ranks.tolist() == [1, 2, 0], "what was watched was published"
    assert report.slates[:, :4].tolist() == [[1, 2, -1, -1], [0, 1, 2, 3], [0, 1, 2, -1]]


def test_lists_of_a_stack_lose_what_came_later() -> None:
    viewers = TestViewers(
        ids=("a", "b"),
        targets=np.array([2, 1]),
        outcomes=np.zeros((2, 0), np.float32),
        watched=(np.empty(0, np.int64),) * 2,
        moments=np.array([10, 10]),
        published=np.array([20.0, 20, 5, 0]),
    )
    lists = np.array([[0, 3, 1, 2], [0, 1, -1, -1]])
    assert viewers.only_published(lists).tolist() == [[3, 2, -1, -1], [1, -1, -1, -1]]


def test_the_catalogue_states_times_to_the_microsecond_and_unknown_ones_as_0() -> None:
    times = [pd.Timestamp("2024-05-01 12:00:01.5", tz="UTC"), pd.NaT]
    videos = pd.DataFrame({"published": pd.Series(times, dtype="datetime64[us, UTC]")})
    assert published_times(videos).tolist() == [1714564801.5, 0.0]
