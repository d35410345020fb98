from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.ensemble import SummedTowers, train_towers
from training.retrieval.export import check_export, export_viewer_tower
from training.retrieval.model import TwoTower
from training.retrieval.validation import validation_metrics, viewer_scores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(
    ring: RetrievalData, small: RetrievalConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SummedTowers, Path]:
    folder = tmp_path_factory.mktemp("ensemble")
    towers = train_towers(ring, replace(small, members=2, epochs=4), folder)
    assert isinstance(towers, SummedTowers)
    return towers, folder


def members(towers: SummedTowers) -> list[TwoTower]:
    return [member for member in towers.members if isinstance(member, TwoTower)]


def test_score_is_the_sum_of_the_members_scores(
    trained: tuple[SummedTowers, Path], ring: RetrievalData
) -> None:
    towers, _ = trained
    viewers = [ring.viewer_features(viewer) for viewer in range(7)]
    parts = [viewer_scores(member, ring, viewers) for member in members(towers)]
    assert np.abs(parts[0] - parts[1]).max() > 0.1
    np.testing.assert_allclose(
        viewer_scores(towers, ring, viewers), parts[0] + parts[1], rtol=1e-4, atol=1e-4
    )


def test_members_start_from_seeds_of_their_own(trained: tuple[SummedTowers, Path]) -> None:
    first, second = members(trained[0])
    assert first.config.seed != second.config.seed


def test_sum_is_exported_as_one_model(
    trained: tuple[SummedTowers, Path], small: RetrievalConfig, tmp_path: Path
) -> None:
    towers, path = trained[0], tmp_path / "viewer_tower" / "1" / "model.onnx"
    export_viewer_tower(towers, path)
    check_export(towers, path)
    assert towers.video_vectors().shape[1] == 2 * small.dimension


def test_trained_members_are_not_trained_again(
    trained: tuple[SummedTowers, Path], ring: RetrievalData, small: RetrievalConfig
) -> None:
    towers, folder = trained
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("retrieval.pt")}
    assert len(written) == 2
    again = train_towers(ring, replace(small, members=2, epochs=4), folder, Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert torch.equal(again.video_vectors(), towers.video_vectors())


def test_towers_train_on_systems_without_process_affinity(
    ring: RetrievalData,
    small: RetrievalConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    config = replace(small, members=2, epochs=1, threads=1)
    assert isinstance(train_towers(ring, config, tmp_path), SummedTowers)


def test_one_member_is_a_plain_pair_of_towers(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    towers = train_towers(ring, replace(small, epochs=1), tmp_path)
    assert isinstance(towers, TwoTower)
    assert 0 <= validation_metrics(towers, ring)["ndcg_10"] <= 1
