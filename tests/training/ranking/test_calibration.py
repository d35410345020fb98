"""Calibration: probabilities that are off are found to be off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.ranking.conftest import ATTRIBUTES, SCHEMA, ranking_set
from vireo.training.ranking.batches import Batches
from vireo.training.ranking.calibration import FOLDS, calibrate, fit_platt
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.train import calibrated, fit_ranker
from vireo.training.ranking.training_set import RankingSet

pytestmark = pytest.mark.slow


def trained(vectors: np.ndarray, config: RankingConfig, folder: Path) -> tuple[Ranker, RankingSet]:
    """A calibrated ranker, and what it was trained on: watches and likes."""
    data = ranking_set("two_tower")
    trainer, held_out = fit_ranker(data, vectors, SCHEMA, ATTRIBUTES, config, folder, "any")
    return calibrated(trainer, held_out).model, trainer.data


def test_calibration_is_measured_on_viewers_that_it_was_not_fitted_on(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    """All likes are one fold's: a fit on everybody expects them, one on the others doesn't."""
    model, data = trained(vectors, config, tmp_path)
    liked = data.outcomes.viewers.viewer % FOLDS == 0
    labels = liked[:, None].astype(np.float32)
    found = calibrate(
        model, Batches(vectors), replace(data, outcomes=replace(data.outcomes, labels=labels))
    )
    assert found["like_ece"] > 0.2
    assert found["watch_ece"] < 0.02
    assert found["watch_predicted_over_observed"] == pytest.approx(1, abs=0.02)


def test_the_fit_finds_scale_and_offset_of_logits_that_were_distorted() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, generator=generator)
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(honest)).float()
    scale, offset = fit_platt(2 * honest + 1, labels)
    assert scale == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(-0.5, abs=0.05)


def test_both_tasks_mean_probability_equals_their_mean_label(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    batches = Batches(vectors)
    model, data = trained(vectors, config, tmp_path)
    # As of a model that is too sure of itself, and of likes.
    model.calibration[:] = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    calibrate(model, batches, data)
    with torch.no_grad():
        like = model(**batches.outcome_inputs(data.outcomes, np.arange(len(data.outcomes.labels))))[
            :, 0, 1
        ]
        inputs, real = batches.watch_inputs(data.watches, np.arange(len(data.watches.rows)))
        watch = model(**inputs)[..., 0][real]
    assert float(like.mean()) == pytest.approx(data.outcomes.labels[:, 0].mean(), abs=1e-3)
    hits = (data.watches.label >= 0).sum()
    assert float(watch.mean()) == pytest.approx(hits / int(real.sum()), abs=1e-3)


def test_it_is_the_same_whoever_was_held_out(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    model, data = trained(vectors, config, tmp_path)
    before = model.calibration.clone()
    held_out = ~data.outcomes.viewers.held_out
    viewers = replace(data.outcomes.viewers, held_out=held_out)
    others = replace(data, outcomes=replace(data.outcomes, viewers=viewers))
    calibrate(model, Batches(vectors), others)
    assert torch.equal(model.calibration, before)


def test_a_task_whose_labels_are_all_alike_is_left_as_it_is(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    model, data = trained(vectors, config, tmp_path)
    none_liked = replace(data.outcomes, labels=np.zeros_like(data.outcomes.labels))
    calibrate(model, Batches(vectors), replace(data, outcomes=none_liked))
    assert model.calibration[1].tolist() == [1, 0]
    assert model.calibration[0].tolist() != [1, 0]
