from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from server.home import Home
from server.releases.manifest import Manifest
from training.ranking.config import RankingConfig
from training.release.gate import Check, Margins, Measured, judge
from training.release.measure import LoadedRelease, measure

VIEWERS, VIDEOS, TIMED = 400, 50, 100


def made_up() -> Measured:
    random = np.random.default_rng(0)
    return Measured(
        release_id="now",
        gains=np.where(random.random(VIEWERS) < 0.3, 0.5, 0.0),
        hits=(random.random(VIEWERS) < 0.6).astype(np.float64),
        slates=random.integers(0, VIDEOS, (VIEWERS, 10)),
        videos=VIDEOS,
        predicted=np.full((VIEWERS, 10), 0.2),
        observed=np.full((VIEWERS, 10), 0.2),
        predictions=np.full(VIEWERS, 10.0),
        seconds=1e-3 * (1 + 0.1 * random.random(TIMED)),
    )


def check_of(now: Measured, candidate: Measured, measure_: str) -> Check:
    [check] = [each for each in judge(now, candidate).checks if each.measure == measure_]
    return check


def test_a_release_is_no_worse_than_itself() -> None:
    result = judge(made_up(), made_up())
    assert result.passed
    assert result.findings == ()
    assert {check.verdict for check in result.checks} == {"no worse"}
    assert result.viewers == VIEWERS


@pytest.mark.parametrize(
    ("measure_", "worse"),
    [
        ("ndcg_10", {"gains": made_up().gains * 0.8}),
        ("recall_100", {"hits": made_up().hits * (np.arange(VIEWERS) % 10 > 0)}),
        ("coverage_10", {"slates": made_up().slates % (VIDEOS // 2)}),
        ("calibration_error", {"predicted": made_up().predicted + 0.02}),
        ("inference_p50", {"seconds": made_up().seconds * 1.5}),
    ],
)
def test_a_loss_beyond_margin_and_noise_is_refused_and_the_other_way_round_is_better(
    measure_: str, worse: dict[str, np.ndarray]
) -> None:
    now = made_up()
    candidate = replace(now, release_id="candidate", **worse)  # type: ignore[arg-type]
    result = judge(now, candidate)
    assert (result.outcome, result.passed) == ("refused", False)
    assert [check.measure for check in result.checks if check.verdict == "worse"] == [measure_]
    assert len(result.findings) == 1
    assert result.findings[0].startswith(f"{measure_} ")
    back = judge(candidate, now)
    assert back.passed
    assert [check.verdict for check in back.checks if check.measure == measure_] == ["better"]


def test_a_loss_within_the_margin_passes() -> None:
    now = made_up()
    check = check_of(now, replace(now, gains=now.gains * 0.99), "ndcg_10")
    assert check.verdict == "within margin"
    assert check.high < 0, "it is sure to be a loss"


@pytest.mark.parametrize(
    ("lost", "verdict", "refused"),
    [(2, "within noise", False), (5, "inconclusive", False), (9, "inconclusive", True)],
)
def test_a_loss_that_may_be_chance_passes_unless_it_is_many_margins(
    lost: int, verdict: str, refused: bool
) -> None:
    now = made_up()
    shuffled = np.random.default_rng(1).permutation(now.gains)
    shuffled[np.flatnonzero(shuffled)[:lost]] = 0
    result = judge(now, replace(now, gains=shuffled))
    [check] = [each for each in result.checks if each.measure == "ndcg_10"]
    assert check.low < 0 < check.high
    assert (check.verdict, check.refused, result.passed) == (verdict, refused, not refused)
    assert len(result.findings) == refused
    assert all("it may be noise: ask more viewers" in finding for finding in result.findings)


def test_how_many_margins_may_be_chance_is_a_margin_of_its_own() -> None:
    now = made_up()
    shuffled = np.random.default_rng(1).permutation(now.gains)
    shuffled[np.flatnonzero(shuffled)[:9]] = 0
    candidate = replace(now, gains=shuffled)
    assert not judge(now, candidate).passed
    assert judge(now, candidate, Margins(inconclusive=10.0)).passed


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["gains", "hits", "predicted", "seconds"])
@pytest.mark.parametrize("side", ["now", "candidate"])
def test_what_is_not_finite_never_passes(side: str, field: str, value: float) -> None:
    now = made_up()
    array = getattr(now, field).copy()
    array[...] = value
    broken = replace(now, **{field: array})
    result = judge(broken, now) if side == "now" else judge(now, broken)
    assert (result.outcome, result.passed) == ("refused", False)
    assert [check.verdict for check in result.checks].count("worse") == 1
    assert len(result.findings) == 1


def test_short_slates_cover_only_what_they_show() -> None:
    slates = np.full((VIEWERS, 10), -1)
    slates[:, 0] = 7
    now = replace(made_up(), slates=slates)
    assert check_of(now, now, "coverage_10").now == 1 / VIDEOS


def test_the_gate_measures_what_the_evaluation_does(
    trained_home: Home, manifest: Manifest, trained_watches: pd.DataFrame
) -> None:
    release = LoadedRelease.load(trained_home.staged_release("trained"))
    found = measured(release, trained_watches, trained_home.features("trained"))
    assert found is not None
    now, candidate = found
    checks = {check.measure: check for check in judge(now, candidate).checks}
    for ours, theirs in {
        "ndcg_10": "chain.ndcg_10",
        "recall_100": "chain.recall_100",
        "coverage_10": "chain.coverage_10",
        "calibration_error": "ranker.watch_ece",
    }.items():
        assert checks[ours].now == checks[ours].candidate
        assert checks[ours].now == pytest.approx(manifest.metrics[theirs])
    assert 0 < checks["inference_p50"].now < 1


def test_of_many_viewers_the_same_are_drawn_every_time(
    trained_home: Home, trained_watches: pd.DataFrame
) -> None:
    release = LoadedRelease.load(trained_home.staged_release("trained"))
    repo = trained_home.features("trained")
    found = [measured(release, trained_watches, repo, most_viewers=10) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0].gains.shape == (10,)
    assert np.array_equal(found[0][0].slates, found[1][0].slates)


def test_where_no_held_out_video_is_known_nothing_is_measured(
    trained_home: Home, trained_watches: pd.DataFrame
) -> None:
    release = LoadedRelease.load(trained_home.staged_release("trained"))
    unknown = trained_watches.assign(video_id="nobody knows it")
    assert measured(release, unknown, trained_home.features("trained")) is None


def measured(
    release: LoadedRelease, watches: pd.DataFrame, repo: Path, most_viewers: int = 1000
) -> tuple[Measured, Measured] | None:
    count = RankingConfig().candidates
    return measure(release, release, watches, repo, count=count, most_viewers=most_viewers)
