from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress

from tests.training.ranking.conftest import ATTRIBUTES, CANDIDATES, LIKES, SCHEMA, ranking_set
from vireo.server.errors import VireoError
from vireo.server.features.ranking_inputs import VIDEO_FEATURES
from vireo.server.signals import OUTCOMES
from vireo.training.checkpoint import Checkpoints
from vireo.training.evaluation.metrics import auc
from vireo.training.ranking.batches import Batches
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.holdout import HeldOut
from vireo.training.ranking.storage import load_ranking_set, save_ranking_set
from vireo.training.ranking.train import (
    CURVE,
    RankingTrainer,
    TrainedRanker,
    calibrated,
    choose,
    fit_ranker,
    with_known_tasks,
)
from vireo.training.ranking.training_set import RankingSet

pytestmark = pytest.mark.slow


def trained(
    data: RankingSet, vectors: np.ndarray, config: RankingConfig, folder: Path
) -> TrainedRanker:
    return calibrated(*fit_ranker(data, vectors, SCHEMA, ATTRIBUTES, config, folder, "fingerprint"))


def test_it_learns_a_signal_that_retrieval_ignores(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    ranker = trained(ranking_set("co_watch"), vectors, config, tmp_path)
    retrieval, chosen = ranker.held_out["retrieval"], ranker.held_out["chosen"]
    assert ranker.model.watch_part != "retrieval"
    assert chosen.ndcg_10 > retrieval.ndcg_10 + 0.2
    assert chosen.watch_loss < retrieval.watch_loss


def test_it_never_orders_worse_than_retrieval(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    wild = replace(config, learning_rate=3.0)
    ranker = trained(ranking_set("two_tower"), vectors, wild, tmp_path)
    assert ranker.held_out["chosen"].ndcg_10 >= ranker.held_out["retrieval"].ndcg_10


def test_a_phase_prefers_an_epoch_that_reaches_the_floor_to_the_minimum_loss(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    # Of these data and at this rate the epoch of the minimum loss isn't the one that orders best.
    data, wild = ranking_set("two_tower", seed=2), replace(config, network_learning_rate=0.05)

    def phase(floor: float) -> tuple[HeldOut, list[dict[str, Any]]]:
        checkpoints = Checkpoints(tmp_path / str(floor), "")
        trainer = RankingTrainer(data, vectors, SCHEMA, ATTRIBUTES, wild, checkpoints)
        with Progress(disable=True) as progress:
            _, held_out = trainer.phase("full", floor, progress)
        return held_out, trainer.curve

    by_loss, curve = phase(0.0)
    best = max(point["held_out_ndcg_10"] for point in curve)
    assert by_loss.ndcg_10 < best
    by_order, _ = phase(best)
    assert by_order.ndcg_10 == best


@pytest.mark.parametrize(
    ("full", "watch_part", "outcome_part"),
    [
        (HeldOut(4.0, 0.5, 0.21), "full", "full"),
        (HeldOut(4.0, 0.7, 0.21), "full", "linear"),
        (HeldOut(4.0, 0.5, 0.19), "linear", "full"),
        (HeldOut(4.2, 0.5, 0.21), "linear", "full"),
    ],
)
def test_the_network_orders_slates_only_if_loss_and_ndcg_improve(
    vectors: np.ndarray,
    config: RankingConfig,
    tmp_path: Path,
    full: HeldOut,
    watch_part: str,
    outcome_part: str,
) -> None:
    held_out = {"retrieval": HeldOut(4.5, 0.6, 0.18), "linear": HeldOut(4.1, 0.6, 0.2)}
    trainer = RankingTrainer(
        ranking_set("co_watch"), vectors, SCHEMA, ATTRIBUTES, config, Checkpoints(tmp_path, "")
    )
    states = {}
    for part in ("retrieval", "linear", "full"):
        torch.nn.init.constant_(trainer.model.watch_linear.weight, len(part))
        states[part] = trainer.weights()
    choose(trainer.model, states, held_out | {"full": full})
    assert (trainer.model.watch_part, trainer.model.outcome_part) == (watch_part, outcome_part)
    assert (trainer.model.watch_linear.weight == len(watch_part)).all()


def test_an_epoch_that_orders_worse_than_the_floor_is_no_better_for_its_loss() -> None:
    reaches, falls_short = HeldOut(4.2, 0.5, 0.2), HeldOut(4.0, 0.5, 0.19)
    assert reaches.better_than(falls_short, 0.2)
    assert not falls_short.better_than(reaches, 0.2)
    assert falls_short.better_than(reaches, 0.1)
    assert falls_short.better_than(reaches, 0.3)


def test_likes_follow_the_like_rate_and_are_calibrated(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    ranker = trained(data, vectors, config, tmp_path)
    with torch.no_grad():
        inputs = Batches(vectors).outcome_inputs(
            data.outcomes, np.arange(len(data.outcomes.labels))
        )
        like = ranker.model(**inputs)[:, 0, 1].numpy()
    held = data.outcomes.viewers.held_out
    assert np.corrcoef(like[held], data.outcomes.features[held, 2])[0, 1] > 0.8
    assert like.mean() == pytest.approx(data.outcomes.labels[:, 0].mean(), abs=0.001)


def test_finishes_are_predicted_where_the_data_says_which_watches_were(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    finished = data.outcomes.features[:, VIDEO_FEATURES.index("like_rate")] > 0.8
    labels = data.outcomes.labels.copy()
    labels[:, [task.name for task in OUTCOMES].index("finish")] = finished
    known = replace(data, outcomes=replace(data.outcomes, labels=labels))
    without = trained(data, vectors, config, tmp_path / "without")
    assert without.model.schema.tasks == ("watch", "like")
    ranker = trained(known, vectors, config, tmp_path / "with")
    assert ranker.model.schema.tasks == ("watch", "like", "finish")
    assert set(ranker.calibration_error) == {"watch", "like", "finish"}
    batches = Batches(vectors)
    with torch.no_grad():
        inputs = batches.outcome_inputs(known.outcomes, np.arange(LIKES))
        finish = ranker.model(**inputs)[:, 0, 2].numpy()
    assert auc(finish, finished) > 0.8
    assert finish.mean() == pytest.approx(finished.mean(), abs=0.01)


def test_hides_are_predicted_from_videos_that_were_hidden_and_those_kept(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    hidden = data.outcomes.features[:, VIDEO_FEATURES.index("like_rate")] < 0.2
    labels = data.outcomes.labels.copy()
    # What is hidden isn't known to be liked, or not.
    labels[hidden] = np.nan
    labels[:, [task.name for task in OUTCOMES].index("hide")] = hidden
    known = replace(data, outcomes=replace(data.outcomes, labels=labels))
    ranker = trained(known, vectors, config, tmp_path)
    assert ranker.model.schema.tasks == ("watch", "like", "hide")
    with torch.no_grad():
        inputs = Batches(vectors).outcome_inputs(known.outcomes, np.arange(LIKES))
        hide = ranker.model(**inputs)[:, 0, 2].numpy()
    assert auc(hide, hidden) > 0.8
    assert hide.mean() == pytest.approx(hidden.mean(), abs=0.01)


def test_watch_probabilities_add_up_to_the_lists_that_hold_their_video(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("co_watch", missed=100)
    ranker = trained(data, vectors, config, tmp_path)
    assert ranker.model.watch_part != "retrieval", "or features would make no difference"
    with torch.no_grad():
        inputs, _ = Batches(vectors).watch_inputs(data.watches, np.arange(len(data.watches.label)))
        expected = ranker.model(**inputs)[..., 0].sum(1).mean().item()
    hits = (data.watches.label >= 0).mean()
    assert expected == pytest.approx(hits, abs=0.01)


def test_the_curve_has_a_point_for_each_epoch(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    trained(ranking_set("co_watch"), vectors, config, tmp_path)
    points = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    linear = [point["epoch"] for point in points if point["part"] == "linear"]
    assert linear == list(range(1, len(linear) + 1))
    assert {"watch_loss", "outcome_loss", "held_out_watch_loss"} <= set(points[0])


class Interrupted(Checkpoints):
    """Ctrl-C right after the third epoch."""

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        super().write(phase, state)
        if state["epoch"] == 3:
            raise KeyboardInterrupt


def test_a_training_that_was_interrupted_ends_like_one_that_was_not(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("co_watch")
    whole = trained(data, vectors, config, tmp_path / "whole")
    stopped = Interrupted(tmp_path / "stopped", "fingerprint")
    schema, known = with_known_tasks(SCHEMA, data)
    with Progress(disable=True) as progress, pytest.raises(KeyboardInterrupt):
        RankingTrainer(known, vectors, schema, ATTRIBUTES, config, stopped).phase(
            "linear", 0.0, progress
        )
    resumed = trained(data, vectors, config, tmp_path / "stopped")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_seeds_decide_everything(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("co_watch")
    runs = [
        trained(data, vectors, replace(config, seed=seed, epochs=2), tmp_path / str(place))
        for place, seed in enumerate((1, 1, 2))
    ]
    first, same, other = (run.model.state_dict()["watch_hidden.weight"] for run in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_checkpoint_of_other_inputs_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").write("linear", {"epoch": 3})
    assert Checkpoints(tmp_path, "other").read("linear") is None
    assert Checkpoints(tmp_path, "one").read("linear") == {"epoch": 3}


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ranking_linear.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(VireoError, match=r"ranking_linear\.pt is damaged; delete it"):
        Checkpoints(tmp_path, "one").read("linear")


def test_too_few_viewers_to_hold_any_out_still_give_a_ranker(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    nobody = np.zeros(len(data.watches.label), bool)
    lists = replace(data.watches, viewers=replace(data.watches.viewers, held_out=nobody))
    nobody = np.zeros(len(data.outcomes.labels), bool)
    likes = replace(data.outcomes, viewers=replace(data.outcomes.viewers, held_out=nobody))
    ranker = trained(
        replace(data, watches=lists, outcomes=likes), vectors, replace(config, epochs=2), tmp_path
    )
    assert ranker.model.watch_part == "retrieval"


def test_a_damaged_ranking_set_is_drawn_again(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"not a set")
    assert load_ranking_set(tmp_path / "set.npz", "one") is None


def test_the_ranking_set_is_read_back_unchanged(tmp_path: Path) -> None:
    data, path = ranking_set("co_watch"), tmp_path / "set.npz"
    save_ranking_set(path, data, "one")
    assert load_ranking_set(path, "other") is None
    read = load_ranking_set(path, "one")
    assert read is not None
    assert np.array_equal(read.watches.rows, data.watches.rows)
    assert read.watches.rows.shape[1] == CANDIDATES
    for mine, theirs in ((read.watches, data.watches), (read.outcomes, data.outcomes)):
        for name, column in vars(theirs.viewers).items():
            assert np.array_equal(getattr(mine.viewers, name), column), name
