from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import structlog

from tests.builders.ranking import of_rows
from tests.builders.releases import build_release
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_key
from vireo.server.features.model_inputs import ranking_inputs, retrieval_features
from vireo.server.models.model import ModelOutputError
from vireo.server.recommend.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import ScoreWeights


def expected(
    release: RankingRelease, asked: RankingQuery, rows: list[int]
) -> npt.NDArray[np.float32]:
    inputs = ranking_inputs(
        asked.viewer,
        np.array([1, 2]),
        np.array(rows),
        retrieval_features(asked.scores, asked.source_masks),
        release.table,
        release.vocabulary,
    )
    tasks: npt.NDArray[np.float32] = release.ranker.run(inputs)[0]
    return tasks


def test_best_come_first_with_each_tasks_score(release: RankingRelease) -> None:
    rows = [4, 8, 15, 16, 23]
    asked = of_rows(rows, page_size=3)
    ranked = RankingPipeline(release).rank(asked)
    tasks = expected(release, asked, rows)
    combined = tasks[:, 0] * tasks[:, 1] ** 0.5
    order = np.argsort(-combined)[:3]
    assert ranked.rows.tolist() == [rows[place] for place in order]
    np.testing.assert_allclose(ranked.scores, combined[order], rtol=1e-6)
    assert set(ranked.tasks) == {"watch", "like"}, "the release predicts no others"
    np.testing.assert_allclose(ranked.tasks["watch"], tasks[order, 0], rtol=1e-6)
    np.testing.assert_allclose(ranked.tasks["like"], tasks[order, 1], rtol=1e-6)
    assert ranked.unknown == 0


@pytest.mark.parametrize(
    ("task", "factor"),
    [("finish", lambda score: score**2), ("hide", lambda score: (1 - score) ** 2)],
)
def test_a_release_may_predict_finishes_and_hides_and_weigh_them(
    tmp_path: Path, task: str, factor: Callable[[float], float]
) -> None:
    tasks = ("watch", "like", task)
    plain = RankingRelease.load(build_release(tmp_path / "plain", tasks=tasks))
    weights = ScoreWeights({"watch": 1, "like": 0.5, task: 2})
    folder = build_release(tmp_path / "weighted", tasks=tasks, weights=weights)
    ranked, weighted = (
        RankingPipeline(release).rank(of_rows(list(range(20))))
        for release in (plain, RankingRelease.load(folder))
    )
    by_row = dict(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True))
    predicted = dict(zip(ranked.rows.tolist(), ranked.tasks[task].tolist(), strict=True))
    for row, score in zip(weighted.rows.tolist(), weighted.scores.tolist(), strict=True):
        assert score == pytest.approx(by_row[row] * factor(predicted[row]), rel=1e-5)


def test_a_probability_of_hides_just_above_1_by_rounding_scores_0() -> None:
    tasks = {"watch": np.array([0.5, 0.5], np.float32), "hide": np.array([0.75, 1.000005])}
    assert ScoreWeights({"hide": 0.5}).combined(tasks).tolist() == [0.25, 0]


def test_unknown_candidates_come_last_and_are_counted(release: RankingRelease) -> None:
    with structlog.testing.capture_logs() as logs:
        ranked = RankingPipeline(release).rank(of_rows([-5, 3, -6, 4]))
    assert sorted(ranked.rows[:2].tolist()) == [3, 4]
    assert ranked.rows[2:].tolist() == [-1, -1]
    assert ranked.scores[2:].tolist() == [0, 0]
    assert ranked.unknown == 2
    assert [(line["log_level"], line["unknown"]) for line in logs] == [("warning", 2)]
    full = RankingPipeline(release).rank(of_rows([-5, 3, -6, 4], page_size=1))
    assert (len(full.keys), full.unknown) == (1, 2)


def test_candidates_that_are_all_unknown_are_returned_by_key(release: RankingRelease) -> None:
    ranked = RankingPipeline(release).rank(of_rows([-5, -6, -7]))
    assert ranked.unknown == 3
    assert ranked.keys.tolist() == sorted(video_key(f"video-{row}") for row in (-5, -6, -7))


def test_equal_scores_are_ordered_by_key(tmp_path: Path) -> None:
    folder = build_release(tmp_path, weights=ScoreWeights({"watch": 0, "like": 0}))
    ranked = RankingPipeline(RankingRelease.load(folder)).rank(of_rows([9, 2, 30, 17]))
    assert ranked.scores.tolist() == [1, 1, 1, 1]
    assert (np.diff(ranked.keys) > 0).all()


def test_history_beyond_the_release_is_ignored(release: RankingRelease) -> None:
    known = viewer_of_rows(1, 2)
    stranger = replace(
        known,
        history_keys=np.append(known.history_keys, 99),
        history_times=np.append(known.history_times, 99),
    )
    answers = [
        RankingPipeline(release).rank(of_rows([5, 6, 7], viewer=v)) for v in (known, stranger)
    ]
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)


def test_score_that_is_not_finite_fails_the_request(tmp_path: Path) -> None:
    release = RankingRelease.load(build_release(tmp_path))
    features = np.array(release.table.features)
    features[5] = np.nan
    broken = replace(release, table=replace(release.table, features=features))
    with pytest.raises(ModelOutputError, match="isn't finite"):
        RankingPipeline(broken).rank(of_rows([4, 5, 6]))


def test_release_needs_no_index_and_no_viewer_tower(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    for path in (layout.VIDEO_INDEX, layout.VIEWER_TOWER, layout.CO_WATCH_ROWS, layout.POPULARITY):
        (folder / path).unlink()
    release = RankingRelease.load(folder)
    release.replay_goldens()
