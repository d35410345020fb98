"""Training of the ranker: what it learns, which part it chooses, and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from tests.builders.ranking_sets import (
    ATTRIBUTES,
    CANDIDATES,
    LIKE_RATE,
    LIKES,
    SCHEMA,
    VECTORS,
    ranking_set,
)
from vireo.server.signals import OUTCOMES
from vireo.training.config import RankingConfig
from vireo.training.metrics import auc
from vireo.training.modules import Checkpoints
from vireo.training.ranking.loss import Batches, HeldOut
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.train import (
    CURVE,
    FOLDS,
    RankingTrainer,
    TrainedRanker,
    calibrate,
    choose,
    fit_platt,
    with_known_tasks,
)
from vireo.training.ranking.training_set import (
    RankingSet,
    load_ranking_set,
    save_ranking_set,
)

pytestmark = pytest.mark.slow
CONFIG = RankingConfig(hidden=8, epochs=8, patience=8, candidates=CANDIDATES)
BATCHES = Batches(VECTORS)


def trained(data: RankingSet, folder: Path, config: RankingConfig = CONFIG) -> TrainedRanker:
    trainer = trainer_of(data, Checkpoints(folder, "fingerprint"), config)
    return trainer.trained(Console(quiet=True))


def trainer_of(
    data: RankingSet, checkpoints: Checkpoints, config: RankingConfig = CONFIG
) -> RankingTrainer:
    return RankingTrainer(data, VECTORS, SCHEMA, ATTRIBUTES, config, checkpoints)


@pytest.fixture(scope="module")
def co_watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedRanker, Path]:
    folder = tmp_path_factory.mktemp("ranker")
    return trained(ranking_set("co_watch"), folder), folder


def predicted(ranker: TrainedRanker, data: RankingSet, task: str) -> np.ndarray:
    """The probability of an outcome of each label."""
    with torch.no_grad():
        scores = ranker.model(**BATCHES.inputs(data.outcomes, np.arange(LIKES))[0])
    found: np.ndarray = scores[:, 0, ranker.model.schema.tasks.index(task)].numpy()
    return found


def test_it_learns_a_signal_that_retrieval_ignores_and_draws_the_curve(
    co_watched: tuple[TrainedRanker, Path],
) -> None:
    ranker, folder = co_watched
    retrieval, chosen = ranker.held_out["retrieval"], ranker.held_out["chosen"]
    assert ranker.model.watch_part != "retrieval"
    assert chosen.ndcg_10 > retrieval.ndcg_10 + 0.2
    assert chosen.watch_loss < retrieval.watch_loss
    assert ranker.model.schema.tasks == ("watch", "like")
    data = ranking_set("co_watch")
    rate = data.outcomes.features[:, 0, LIKE_RATE]
    assert np.corrcoef(predicted(ranker, data, "like"), rate)[0, 1] > 0.8
    points = [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]
    linear = [point["epoch"] for point in points if point["part"] == "linear"]
    assert linear == list(range(1, len(linear) + 1))
    assert {"watch_loss", "outcome_loss", "held_out_watch_loss"} <= set(points[0])


def test_it_never_orders_worse_than_retrieval(tmp_path: Path) -> None:
    ranker = trained(ranking_set("two_tower"), tmp_path, replace(CONFIG, learning_rate=3.0))
    assert ranker.held_out["chosen"].ndcg_10 >= ranker.held_out["retrieval"].ndcg_10


def test_a_phase_prefers_an_epoch_that_reaches_the_floor_to_the_minimum_loss(
    tmp_path: Path,
) -> None:
    # Of these data and at this rate the epoch of the minimum loss isn't the one that orders best.
    data, wild = ranking_set("two_tower", seed=2), replace(CONFIG, network_learning_rate=0.05)

    def phase(floor: float) -> tuple[HeldOut, list[dict[str, Any]]]:
        trainer = trainer_of(data, Checkpoints(tmp_path / str(floor), ""), wild)
        with Progress(disable=True) as progress:
            _, held_out = trainer.phase("full", floor, progress)
        return held_out, trainer.curve

    by_loss, curve = phase(0.0)
    best = max(point["held_out_ndcg_10"] for point in curve)
    assert by_loss.ndcg_10 < best
    assert phase(best)[0].ndcg_10 == best


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
    tmp_path: Path, full: HeldOut, watch_part: str, outcome_part: str
) -> None:
    held_out = {"retrieval": HeldOut(4.5, 0.6, 0.18), "linear": HeldOut(4.1, 0.6, 0.2)}
    trainer = trainer_of(ranking_set("co_watch"), Checkpoints(tmp_path, ""))
    states = {}
    for part in ("retrieval", "linear", "full"):
        torch.nn.init.constant_(trainer.model.watch_linear.weight, len(part))
        states[part] = trainer.weights()
    choose(trainer.model, states, held_out | {"full": full})
    assert (trainer.model.watch_part, trainer.model.outcome_part) == (watch_part, outcome_part)
    assert (trainer.model.watch_linear.weight == len(watch_part)).all()


@pytest.mark.parametrize("task", ["finish", "hide"])
def test_outcomes_that_the_data_knows_of_are_predicted_and_calibrated(
    tmp_path: Path, task: str
) -> None:
    data = ranking_set("two_tower")
    rate = data.outcomes.features[:, 0, LIKE_RATE]
    labels = data.outcomes.labels.copy()
    happened = rate > 0.8 if task == "finish" else rate < 0.2
    if task == "hide":  # What is hidden isn't known to be liked, or not.
        labels[happened] = np.nan
    labels[:, [each.name for each in OUTCOMES].index(task)] = happened
    known = replace(data, outcomes=replace(data.outcomes, labels=labels))
    ranker = trained(known, tmp_path)
    assert ranker.model.schema.tasks == ("watch", "like", task)
    assert set(ranker.calibration_error) == {"watch", "like", task}
    found = predicted(ranker, known, task)
    assert found.mean() == pytest.approx(happened.mean(), abs=0.01)
    assert auc(found, happened) > 0.8


class Interrupted(Checkpoints):
    """Ctrl-C right after the third epoch."""

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        super().write(phase, state)
        if state["epoch"] == 3:
            raise KeyboardInterrupt


def test_a_training_that_was_interrupted_ends_like_one_that_was_not(
    co_watched: tuple[TrainedRanker, Path], tmp_path: Path
) -> None:
    stopped = Interrupted(tmp_path, "fingerprint")
    with Progress(disable=True) as progress, pytest.raises(KeyboardInterrupt):
        trainer_of(ranking_set("co_watch"), stopped).phase("linear", 0.0, progress)
    resumed = trained(ranking_set("co_watch"), tmp_path).model.state_dict()
    for name, value in co_watched[0].model.state_dict().items():
        assert torch.equal(value, resumed[name]), name
    # By these names an earlier build's are replaced.
    assert {each.name for each in tmp_path.glob("*.pt")} == {"ranking_linear.pt", "ranking_full.pt"}


def test_too_few_viewers_to_hold_any_out_still_give_a_ranker(tmp_path: Path) -> None:
    data = ranking_set("two_tower")
    parts = {}
    for name in ("watches", "outcomes"):
        part = getattr(data, name)
        nobody = np.zeros_like(part.viewers.held_out)
        parts[name] = replace(part, viewers=replace(part.viewers, held_out=nobody))
    ranker = trained(replace(data, **parts), tmp_path, replace(CONFIG, epochs=2))
    assert ranker.model.watch_part == "retrieval"


def test_the_ranking_set_is_read_back_unchanged_or_drawn_again(tmp_path: Path) -> None:
    data, path = ranking_set("co_watch"), tmp_path / "set.npz"
    save_ranking_set(path, data, "one")
    assert load_ranking_set(path, "other") is None
    read = load_ranking_set(path, "one")
    assert read is not None
    assert read.watches.rows.shape[1] == CANDIDATES
    np.testing.assert_equal(asdict(read), asdict(data))
    path.write_bytes(b"not a set")
    assert load_ranking_set(path, "one") is None


@pytest.fixture
def uncertain(co_watched: tuple[TrainedRanker, Path]) -> tuple[Ranker, RankingSet]:
    """A trained ranker to calibrate anew, and what it was trained on: watches and likes."""
    return deepcopy(co_watched[0].model), with_known_tasks(SCHEMA, ranking_set("co_watch"))[1]


def test_the_mean_probability_of_each_task_equals_its_mean_label_whoever_was_held_out(
    uncertain: tuple[Ranker, RankingSet],
) -> None:
    model, data = uncertain
    # As of a model that is too sure of itself, and of likes.
    model.calibration[:] = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    calibrate(model, BATCHES, data)
    before = model.calibration.clone()
    with torch.no_grad():
        every = np.arange(len(data.outcomes.labels))
        like = model(**BATCHES.inputs(data.outcomes, every)[0])[:, 0, 1]
        inputs, real = BATCHES.inputs(data.watches, np.arange(len(data.watches.rows)))
        watch = model(**inputs)[..., 0][real]
    assert float(like.mean()) == pytest.approx(data.outcomes.labels[:, 0].mean(), abs=1e-3)
    hits = (data.watches.label >= 0).sum()
    assert float(watch.mean()) == pytest.approx(hits / int(real.sum()), abs=1e-3)
    others = ~data.outcomes.viewers.held_out
    viewers = replace(data.outcomes.viewers, held_out=others)
    calibrate(model, BATCHES, replace(data, outcomes=replace(data.outcomes, viewers=viewers)))
    assert torch.equal(model.calibration, before)


def test_calibration_is_measured_on_viewers_that_it_was_not_fitted_on(
    uncertain: tuple[Ranker, RankingSet],
) -> None:
    """All likes are one fold's: a fit on everybody expects them, one on the others doesn't."""
    model, data = uncertain
    liked = data.outcomes.viewers.viewer % FOLDS == 0
    outcomes = replace(data.outcomes, labels=liked[:, None].astype(np.float32))
    found = calibrate(model, BATCHES, replace(data, outcomes=outcomes))
    assert found["like_ece"] > 0.2
    assert found["watch_ece"] < 0.02
    assert found["watch_predicted_over_observed"] == pytest.approx(1, abs=0.02)


def test_a_task_whose_labels_are_all_alike_is_left_as_it_is(
    uncertain: tuple[Ranker, RankingSet],
) -> None:
    model, data = uncertain
    outcomes = replace(data.outcomes, labels=np.zeros_like(data.outcomes.labels))
    calibrate(model, BATCHES, replace(data, outcomes=outcomes))
    assert model.calibration[1].tolist() == [1, 0]
    assert model.calibration[0].tolist() != [1, 0]


def test_the_fit_never_turns_the_order_around() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2))
    assert fit_platt(logits, (logits < 0).float())[0] > 0
