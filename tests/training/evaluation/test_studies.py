from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from server.candidate.release import CandidateRelease
from server.errors import VireoError
from server.features.ranking_inputs import RETRIEVAL_FEATURES
from server.home import Home
from server.releases import layout
from server.releases.manifest import Quotas
from training.data.dataset import load_dataset
from training.evaluation.ablations import ablate, ablation_names, check_names
from training.evaluation.diversity import Point, ScoredLists, diversity_curve, worth_it
from training.evaluation.held_out import last_held_out
from training.evaluation.leaks import LeakError, check_made
from training.evaluation.sources import CUTOFFS, NAMES, Proposals
from training.evaluation.studies import Studies
from training.ranking.storage import load_ranking_set
from training.ranking.training_set import RankingSet
from training.retrieval.data import RetrievalData
from training.run import Run


@pytest.fixture(scope="module")
def studies(trained_home: Home) -> Studies:
    return Studies(trained_home, "trained", "quick", Console(quiet=True))


@pytest.fixture(scope="module")
def release(trained_home: Home) -> CandidateRelease:
    return CandidateRelease.load(trained_home.staged_release("trained"))


@pytest.fixture(scope="module")
def data(trained_home: Home, trained_watches: pd.DataFrame) -> RetrievalData:
    tables = load_dataset(trained_home, "trained")
    return RetrievalData.build(trained_watches, tables.videos, tables.viewers)


@pytest.fixture(scope="module")
def ranking_set(trained_home: Home) -> RankingSet:
    run = Run(trained_home.run("trained"))
    found = load_ranking_set(run.ranking_set, run.finished_inputs())
    assert found is not None
    return found


def test_what_training_made_has_no_leak(studies: Studies) -> None:
    studies.leaks()


def test_a_ranker_that_is_taught_the_test_watch_is_found(
    trained_home: Home, trained_watches: pd.DataFrame, data: RetrievalData, ranking_set: RankingSet
) -> None:
    target = trained_watches[trained_watches["part"] == "test"].iloc[0]
    row = data.video_ids.index(target["video_id"])
    labels = trained_watches[trained_watches["part"] != "test"]
    labels = labels.groupby("viewer_id", sort=False).tail(11).reset_index(drop=True)
    place = int(np.flatnonzero(labels["viewer_id"] == target["viewer_id"])[0])
    likes = ranking_set.likes
    rows, history = likes.rows.copy(), likes.viewers.history_rows.copy()
    rows[place], history[place, 0] = row, row
    told = replace(likes, viewers=replace(likes.viewers, history_rows=history))
    late = replace(ranking_set.watches, moment=ranking_set.watches.moment + 1)
    folder = trained_home.staged_release("trained")
    leak = f"viewer '{target['viewer_id']}', video '{target['video_id']}'.*test part"
    for planted, where in (
        (replace(ranking_set, likes=replace(likes, rows=rows)), f"like labels: {leak}"),
        (replace(ranking_set, likes=told), f"histories of the ranker's like labels: {leak}"),
        (replace(ranking_set, watches=late), "moments of the ranker's lists"),
    ):
        with pytest.raises(LeakError, match=where):
            check_made(trained_watches, data, folder, planted)


@pytest.mark.parametrize("table", ["features", "viewer_features"])
def test_counts_of_later_events_beside_a_label_are_found(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    data: RetrievalData,
    ranking_set: RankingSet,
    table: str,
) -> None:
    likes = ranking_set.likes
    if table == "features":
        planted = replace(likes, features=likes.features + np.float32(0.7))
    else:
        more = likes.viewers.viewer_features + np.float32(0.7)
        planted = replace(likes, viewers=replace(likes.viewers, viewer_features=more))
    with pytest.raises(LeakError, match="features of the ranker's like labels"):
        check_made(
            trained_watches,
            data,
            trained_home.staged_release("trained"),
            replace(ranking_set, likes=planted),
        )


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (layout.VIDEO_FEATURE_TABLE, "video features"),
        (layout.POPULARITY, "popularity"),
        (layout.CO_WATCH_WEIGHTS, "co-watch table"),
        (layout.EASE_WEIGHTS, "EASE table"),
    ],
)
def test_a_release_that_counts_other_events_is_found(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    data: RetrievalData,
    tmp_path: Path,
    file: str,
    named: str,
) -> None:
    folder = Path(shutil.copytree(trained_home.staged_release("trained"), tmp_path / "release"))
    table = np.load(folder / file)
    table[3] += 1
    np.save(folder / file, table)
    with pytest.raises(LeakError, match=named):
        check_made(trained_watches, data, folder, None)


def test_the_union_is_what_the_pipeline_retrieves(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> None:
    from server.candidate.pipeline import CandidatePipeline, CandidateQuery

    repo = trained_home.features("trained")
    held_out = last_held_out(trained_watches, repo, release.rows, "validation")
    proposals = Proposals.gather(release, held_out)
    pipeline = CandidatePipeline(release, fail_open=False)
    drawn = [pipeline.retrieve(CandidateQuery(viewer=one, count=20)) for one in held_out.viewers]
    expected = [target in found.rows for target, found in zip(held_out.targets, drawn, strict=True)]
    assert proposals.merged(release.manifest.quotas, 20).tolist() == expected
    alone = proposals.merged(Quotas(co_watch=0, ease=0, popular=0, fresh=0), 20)
    assert alone.tolist() == proposals.alone("two_tower", 20).tolist()


def test_sources_are_studied_on_both_parts(studies: Studies, trained_home: Home) -> None:
    found = studies.sources()
    path = trained_home.run("trained") / "report" / "sources.json"
    assert json.loads(path.read_text()) == found
    for part in (found, found["validation"]):
        assert set(part["alone"]) == set(part["without"]) == set(NAMES)
        assert set(part["union"]) == {str(count) for count in CUTOFFS}


def test_quotas_are_tried_best_first(studies: Studies) -> None:
    recalls = [one["recall"] for one in studies.quotas()]
    assert recalls == sorted(recalls, reverse=True)


def test_a_source_is_taken_out_whole(ranking_set: RankingSet) -> None:
    lists = ranking_set.watches
    without = ablate(ranking_set, "ease").watches
    own = RETRIEVAL_FEATURES.index("from_ease")
    others = [n for n, name in enumerate(RETRIEVAL_FEATURES) if name[:5] == "from_" and n != own]
    assert not without.retrieval[..., [own, RETRIEVAL_FEATURES.index("ease")]].any()
    kept = lists.retrieval[..., others].any(-1)
    assert np.array_equal(without.rows >= 0, (lists.rows >= 0) & kept)
    hit = without.label >= 0
    assert np.array_equal(without.label[hit], lists.label[hit])
    assert (without.rows[hit, without.label[hit]] >= 0).all()


def test_every_input_can_be_taken_out(ranking_set: RankingSet) -> None:
    for name, column in ablation_names().items():
        without = ablate(ranking_set, name)
        if column is not None and column.table != "viewer_features":
            assert not getattr(without.watches, column.table)[..., column.place].any()
    assert not ablate(ranking_set, "history").watches.viewers.history_lengths.any()
    assert not ablate(ranking_set, "attributes").likes.viewers.attributes.any()
    with pytest.raises(VireoError, match=r"without 'colour'.*co_watch"):
        check_names(["colour"])


def test_an_ablation_is_compared_with_the_whole_chain(studies: Studies) -> None:
    found = studies.ablations(["popular", "history"])
    assert set(found["without"]) == set(found["tests"]) == {"popular", "history"}
    # Trained again with the same settings and asked of the same lists, it is the released one.
    plain = studies.diversity()["points"][0]
    assert plain["strength"] == 0
    assert found["full"]["ndcg_10"] == pytest.approx(plain["ndcg_10"])
    for name, measures in found["without"].items():
        lost = found["tests"][name]["ndcg_10"]["value"]
        assert lost == pytest.approx(found["full"]["ndcg_10"] - measures["ndcg_10"])


def test_the_chosen_strength_is_the_last_before_the_loss_is_too_large() -> None:
    curve = [Point(strength, ndcg, 0, 0, 0) for strength, ndcg in
             [(0.0, 0.2), (0.1, 0.201), (0.3, 0.1985), (0.5, 0.197), (0.7, 0.2)]]  # fmt: skip
    assert worth_it(curve, allowed=0.01) == 0.3
    assert worth_it(curve[:1]) == 0.0


def test_the_chosen_strength_keeps_the_hit_rate_too() -> None:
    hits = [(0.0, 0.3), (0.1, 0.299), (0.3, 0.29)]
    curve = [Point(strength, 0.2, hit_rate, 0, 0) for strength, hit_rate in hits]
    assert worth_it(curve, allowed=0.01) == 0.1


def test_strength_trades_gain_for_distance() -> None:
    # Twelve of one kind score above eight that differ.
    vectors = np.concatenate([np.tile([[1.0, 0.0]], (12, 1)), np.eye(10)[2:, :2] + 1e-3])
    vectors = np.concatenate([vectors, np.vstack([np.zeros((12, 8)), np.eye(8)])], axis=1)
    lists = ScoredLists(
        np.arange(20)[None],
        np.linspace(1, 0.5, 20, dtype=np.float32)[None],
        np.array([1]),
    )
    plain, diverse = diversity_curve(lists, vectors.astype(np.float32), [0.0, 5.0])
    assert plain.ndcg_10 > diverse.ndcg_10
    assert plain.intra_list_distance < diverse.intra_list_distance


def test_the_served_curve_begins_with_the_chains_own_measures(
    studies: Studies, trained_home: Home
) -> None:
    found = studies.diversity()
    report = trained_home.run("trained") / "report"
    chain = json.loads((report / "metrics.json").read_text())["chain"]
    released = [point for point in found["points"] if point["strength"] == found["chosen"]]
    assert released[0]["ndcg_10"] == pytest.approx(chain["ndcg_10"])
