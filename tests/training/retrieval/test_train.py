"""Training of the towers: its steps, what it learns, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.builders.watches import towers_data, videos_frame, viewers_frame
from vireo.training.config import RetrievalConfig
from vireo.training.metrics import means
from vireo.training.modules import CheckpointError
from vireo.training.profile import load_profile
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import (
    CURVE,
    EmptyTrainingSetError,
    TrainingInterruptedError,
    train_retrieval,
    trained_weights,
)
from vireo.training.retrieval.trainer import Muon, RetrievalTrainer, orthogonalised
from vireo.training.retrieval.validation import validation_ranks

Trained = tuple[TwoTower, Path]


def weights(model: TwoTower) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def curve(folder: Path) -> list[dict[str, float]]:
    """The points of the learning curve."""
    return [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]


@pytest.fixture(scope="session")
def trained(
    ring: RetrievalData, small: RetrievalConfig, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("checkpoints")
    return train_retrieval(ring, small, folder), folder


class InterruptingConsole(Console):
    """Presses Ctrl-C when training reports an epoch."""

    def __init__(self, epoch: int = 0) -> None:
        super().__init__(quiet=True)
        self.epoch = epoch
        self.lines: list[str] = []

    def print(self, *objects: object, **_: object) -> None:
        texts = [text for text in objects if isinstance(text, str)]
        self.lines += texts
        if any(text.startswith(f"epoch {self.epoch}/") for text in texts):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", ["sampled", "ids alone", "in groups"])
def test_the_next_video_on_the_ring_is_learned(
    kind: str,
    request: pytest.FixtureRequest,
    ring_tables: tuple[Any, ...],
    small: RetrievalConfig,
    tmp_path: Path,
) -> None:
    data, config = request.getfixturevalue("ring"), small
    if kind == "sampled":
        config = replace(small, full_softmax_limit=10, negatives=20)
    if kind == "ids alone":
        watches, videos, _ = ring_tables
        only_ids = videos_frame(list(videos["video_id"]))
        data = RetrievalData.build(watches, only_ids, viewers_frame({}))
    if kind == "in groups":
        data, config = request.getfixturevalue("grouped"), replace(small, shuffle_watches=200)
    measures = means(validation_ranks(train_retrieval(data, config, tmp_path), data))
    assert measures["hr_10"] > 0.95
    assert measures["ndcg_10"] > 0.6 or kind != "sampled"


def test_the_learning_curve_has_a_line_an_epoch_and_the_best_model_is_given(
    trained: Trained, ring: RetrievalData, small: RetrievalConfig
) -> None:
    lines = curve(trained[1])
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {line["tokens"] for line in lines} == {ring.watch_count}
    assert [line["epoch"] for line in lines if "ndcg_10" in line] == [3, 6, 9, 12]
    model = TwoTower(ring, small)
    model.load_state_dict(trained_weights(trained[1]))
    best = max(line.get("ndcg_10", 0) for line in lines)
    assert means(validation_ranks(model, ring))["ndcg_10"] == pytest.approx(best)
    assert best > 0.6


def test_few_watches_are_trained_on_for_a_minimum_of_steps(ring: RetrievalData) -> None:
    large, quality, quick = (load_profile(name).retrieval for name in ("large", "quality", "quick"))
    assert large.planned_epochs(1_470_000) * 1_470_000 / large.batch_tokens >= 1_500
    assert large.planned_epochs(10_000_000) == large.epochs
    assert quality.planned_epochs(300) == 1_500, "each epoch is a step"
    assert quick.planned_epochs(300) == quick.epochs
    trainer = RetrievalTrainer(ring, replace(large, dimension=16))
    trainer.train_step()
    assert trainer.share_done < 1 / 1_000


def test_the_average_of_a_short_training_goes_along_with_the_weights(
    ring: RetrievalData, small: RetrievalConfig, trained: Trained
) -> None:
    trainer = RetrievalTrainer(ring, replace(small, ema_decay=0.999), trained_weights(trained[1]))
    began = weights(trainer.model)
    for _ in range(5):
        trainer.train_step()
    moved, followed = (
        (weights(model) - began).norm() for model in (trainer.model, trainer.average.model)
    )
    assert followed > 0.5 * moved


def test_a_run_stopped_by_ctrl_c_and_resumed_equals_an_uninterrupted_one(
    trained: Trained, ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    with pytest.raises(TrainingInterruptedError, match="run the same command again"):
        train_retrieval(ring, small, tmp_path, InterruptingConsole(epoch=6))
    console = InterruptingConsole()
    resumed = train_retrieval(ring, small, tmp_path, console)
    assert console.lines[0].startswith("resuming from the checkpoint, 50% done")
    assert torch.equal(weights(resumed), weights(trained[0]))
    assert curve(tmp_path) == curve(trained[1])


@pytest.mark.parametrize("limit", [50_000, 10])
def test_a_state_from_mid_epoch_resumes_with_equal_results(
    ring: RetrievalData, small: RetrievalConfig, limit: int
) -> None:
    config = replace(small, full_softmax_limit=limit, negatives=5)
    straight, stopped, resumed = (RetrievalTrainer(ring, config) for _ in range(3))
    for _ in range(5):
        straight.train_step()
    for _ in range(2):
        stopped.train_step()
    resumed.restore(stopped.state())
    for _ in range(3):
        resumed.train_step()
    for trainer in (straight, resumed):
        trainer.average.settle()
    assert torch.equal(weights(resumed.model), weights(straight.model))
    assert torch.equal(weights(resumed.average.model), weights(straight.average.model))


def test_a_finished_run_is_not_trained_again(
    trained: Trained, ring: RetrievalData, small: RetrievalConfig
) -> None:
    path = trained[1] / "retrieval.pt"
    before = path.stat().st_mtime_ns
    again = train_retrieval(ring, small, trained[1])
    assert torch.equal(weights(again), weights(trained[0]))
    assert path.stat().st_mtime_ns == before


def test_a_checkpoint_of_something_else_is_not_taken_up(
    trained: Trained, ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    folder, console = Path(shutil.copytree(trained[1], tmp_path / "other")), InterruptingConsole()
    train_retrieval(ring, replace(small, epochs=1), folder, console)
    said = "training from scratch: the checkpoint is of other data, settings or code"
    assert console.lines[0] == said
    assert [point["epoch"] for point in curve(folder)] == [1]


def test_the_clock_ends_training_when_epochs_would_not(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    hasty = replace(small, epochs=1_000_000, max_minutes=0.01)
    model = train_retrieval(ring, hasty, tmp_path)
    assert "ndcg_10" in json.loads((tmp_path / CURVE).read_text().splitlines()[-1])
    assert weights(model).isfinite().all()


def test_what_cannot_be_trained_on_or_from_is_said_with_the_remedy(
    ring: RetrievalData, ring_tables: tuple[Any, ...], small: RetrievalConfig
) -> None:
    watches, *tables = ring_tables
    empty = RetrievalData.build(watches.assign(part="test"), *tables)
    with pytest.raises(EmptyTrainingSetError, match="no watches"):
        train_retrieval(empty, small, Path("never written"))
    start = RetrievalTrainer(ring, small).model.state_dict()
    del start["viewer_tower.age_steps.weight"]
    with pytest.raises(CheckpointError, match="train again with --fresh"):
        RetrievalTrainer(ring, small, start)


VIDEOS = 200


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_orthogonalised_matrix_keeps_its_directions_and_evens_out_their_sizes(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() / sizes.min() > 2
    in_the_same_basis = left.T @ orthogonalised(matrix) @ right.T
    found = in_the_same_basis.diagonal()
    # The polynomial settles around 1, not at it.
    assert ((found > 0.6) & (found < 1.3)).all()
    assert torch.allclose(in_the_same_basis, torch.diag(found), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_step_size_matches_adamws_for_any_gradient(scale: float) -> None:
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(32, 128))
    matrix.grad = torch.randn(32, 128) * scale
    Muon([matrix], lr=0.1, weight_decay=0.0).step()
    assert matrix.detach().square().mean().sqrt().item() == pytest.approx(0.02, rel=0.25)


def test_zero_gradient_and_no_gradient_leave_the_matrix_but_for_its_decay() -> None:
    still, left_out = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    still.grad = torch.zeros(4, 4)
    Muon([still, left_out], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(still, torch.full((4, 4), 0.95))
    assert torch.equal(left_out, torch.ones(4, 4))


@pytest.fixture
def sampled(small: RetrievalConfig) -> RetrievalConfig:
    return replace(small, full_softmax_limit=10, negatives=5, ema_decay=0.95, batch_tokens=12)


@pytest.fixture
def sparse(sampled: RetrievalConfig) -> RetrievalTrainer:
    """Only videos 0 to 9 of 200 are watched."""
    ids = [f"v{number}" for number in range(VIDEOS)]
    walks = {f"w{viewer}": [ids[(viewer + step) % 10] for step in range(6)] for viewer in range(60)}
    return RetrievalTrainer(towers_data(walks, ids), sampled)


def test_rows_that_no_batch_touched_do_not_change(sparse: RetrievalTrainer) -> None:
    weight = sparse.model.video_tower.id_embedding.weight
    before, average_before = weight.detach().clone(), deepcopy(sparse.average.model)
    touched = set()
    for _ in range(3):
        sparse.train_step()
        assert weight.grad is not None
        assert weight.grad.is_sparse
        assert len(weight.grad.indices()[0]) <= 10 + 5
        touched |= set(weight.grad.indices()[0].tolist())
    sparse.average.settle()
    rest = [row for row in range(VIDEOS) if row not in touched]
    assert len(rest) > 150
    assert torch.equal(weight.detach()[rest], before[rest])
    one, other = (
        model.video_tower.id_embedding.weight for model in (sparse.average.model, average_before)
    )
    assert torch.equal(one[rest], other[rest])
    assert not torch.equal(weight.detach()[:10], before[:10])


def test_the_average_by_rows_is_the_average_of_every_step(sparse: RetrievalTrainer) -> None:
    weight = sparse.model.video_tower.id_embedding.weight
    plain = weight.detach().clone()
    for step in range(20):
        sparse.train_step()
        plain.lerp_(weight.detach(), 1 - min(0.95, (step + 1) / (step + 10)))
    sparse.average.settle()
    assert torch.allclose(sparse.average.model.video_tower.id_embedding.weight, plain, atol=1e-6)


def test_gradients_are_clipped_together(ring: RetrievalData, sampled: RetrievalConfig) -> None:
    trainer = RetrievalTrainer(ring, replace(sampled, clip=1e-3))
    trainer.train_step()
    gradients = [each.grad for each in trainer.model.parameters() if each.grad is not None]
    assert any(gradient.is_sparse for gradient in gradients)
    parts = [each.coalesce().values() if each.is_sparse else each for each in gradients]
    norm = torch.linalg.vector_norm(torch.stack([part.norm() for part in parts]))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
