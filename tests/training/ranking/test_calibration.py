"""Calibration: probabilities that are off are found to be off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.builders.ranking_sets import ATTRIBUTES, CONFIG, SCHEMA, VECTORS, ranking_set
from vireo.training.ranking.loss import Batches
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.train import FOLDS, calibrate, calibrated, fit_platt, fit_ranker
from vireo.training.ranking.training_set import RankingSet

pytestmark = pytest.mark.slow
BATCHES = Batches(VECTORS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, RankingSet]:
    """A calibrated ranker, and what it was trained on: watches and likes."""
    folder = tmp_path_factory.mktemp("ranker")
    fitted = fit_ranker(
        ranking_set("two_tower"), VECTORS, SCHEMA, ATTRIBUTES, CONFIG, folder, "any"
    )
    return calibrated(*fitted).model, fitted[0].data


def test_the_mean_probability_of_each_task_equals_its_mean_label_whoever_was_held_out(
    trained: tuple[Ranker, RankingSet],
) -> None:
    model, data = trained
    # As of a model that is too sure of itself, and of likes.
    model.calibration[:] = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    calibrate(model, BATCHES, data)
    before = model.calibration.clone()
    with torch.no_grad():
        every = np.arange(len(data.outcomes.labels))
        like = model(**BATCHES.outcome_inputs(data.outcomes, every))[:, 0, 1]
        inputs, real = BATCHES.watch_inputs(data.watches, np.arange(len(data.watches.rows)))
        watch = model(**inputs)[..., 0][real]
    assert float(like.mean()) == pytest.approx(data.outcomes.labels[:, 0].mean(), abs=1e-3)
    hits = (data.watches.label >= 0).sum()
    assert float(watch.mean()) == pytest.approx(hits / int(real.sum()), abs=1e-3)
    others = ~data.outcomes.viewers.held_out
    viewers = replace(data.outcomes.viewers, held_out=others)
    calibrate(model, BATCHES, replace(data, outcomes=replace(data.outcomes, viewers=viewers)))
    assert torch.equal(model.calibration, before)


def test_calibration_is_measured_on_viewers_that_it_was_not_fitted_on(
    trained: tuple[Ranker, RankingSet],
) -> None:
    """All likes are one fold's: a fit on everybody expects them, one on the others doesn't."""
    model, data = trained
    liked = data.outcomes.viewers.viewer % FOLDS == 0
    outcomes = replace(data.outcomes, labels=liked[:, None].astype(np.float32))
    found = calibrate(model, BATCHES, replace(data, outcomes=outcomes))
    assert found["like_ece"] > 0.2
    assert found["watch_ece"] < 0.02
    assert found["watch_predicted_over_observed"] == pytest.approx(1, abs=0.02)


def test_a_task_whose_labels_are_all_alike_is_left_as_it_is(
    trained: tuple[Ranker, RankingSet],
) -> None:
    model, data = trained
    outcomes = replace(data.outcomes, labels=np.zeros_like(data.outcomes.labels))
    calibrate(model, BATCHES, replace(data, outcomes=outcomes))
    assert model.calibration[1].tolist() == [1, 0]
    assert model.calibration[0].tolist() != [1, 0]


def test_the_fit_never_turns_the_order_around() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2))
    assert fit_platt(logits, (logits < 0).float())[0] > 0
