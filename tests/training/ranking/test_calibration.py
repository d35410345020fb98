"""Calibration: probabilities that are off are found to be off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.ranking.conftest import ranking_set
from tests.training.ranking.test_train import trained
from training.ranking.batches import Batches
from training.ranking.calibration import calibrate, calibration_errors, fit_offset, fit_platt
from training.ranking.config import RankingConfig


def test_a_shifted_model_has_a_larger_error_in_that_task_alone(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    ranker = trained(data, vectors, config, tmp_path)
    before = ranker.calibration_error
    ranker.model.calibration[1, 1] += 3.0
    after = calibration_errors(ranker.model, Batches(vectors), data)
    assert after["like"] > before["like"] + 0.1
    assert after["watch"] == pytest.approx(before["watch"])


def test_the_fit_finds_scale_and_offset_of_logits_that_were_distorted() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, generator=generator)
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(honest)).float()
    scale, offset = fit_platt(2 * honest + 1, labels)
    assert scale == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(-0.5, abs=0.05)


def test_the_offset_gives_the_mean_label_whatever_the_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1000, generator=generator)
    labels = (torch.arange(1000) < 30).float()
    for scale in (0.1, 1.0, 5.0):
        offset = fit_offset(logits, labels, scale)
        mean = float(torch.sigmoid(logits * scale + offset).mean())
        assert mean == pytest.approx(0.03, abs=1e-5)


def test_held_out_viewers_who_like_more_do_not_raise_the_likes_of_everyone(
    vectors: np.ndarray, config: RankingConfig, tmp_path: Path
) -> None:
    data = ranking_set("two_tower")
    ranker = trained(data, vectors, config, tmp_path)
    likes = np.flatnonzero(data.likes.liked)[:100].tolist()
    likes += np.flatnonzero(~data.likes.liked)[:10].tolist()
    lists = np.flatnonzero(data.watches.viewers.held_out)
    calibrate(ranker.model, Batches(vectors), data, lists, np.array(likes))
    with torch.no_grad():
        inputs = Batches(vectors).like_inputs(data.likes, np.arange(len(data.likes.liked)))
        like = ranker.model(**inputs)[:, 0, 1]
    assert float(like.mean()) == pytest.approx(data.likes.liked.mean(), abs=1e-3)
