"""Training of the towers: from where it starts, what it learns, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.config import RetrievalConfig
from vireo.training.modules import CheckpointError
from vireo.training.profile import load_profile
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.embeddings import SPREAD, first_vectors
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import (
    CURVE,
    EmptyTrainingSetError,
    TrainingInterruptedError,
    train_retrieval,
    trained_weights,
)
from vireo.training.retrieval.trainer import RetrievalTrainer
from vireo.training.retrieval.validation import validation_metrics

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


@pytest.mark.parametrize("kind", ["full", "sampled", "ids alone", "in groups"])
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
    measures = validation_metrics(train_retrieval(data, config, tmp_path), data)
    assert measures["hit_rate_10"] > 0.95
    assert measures["ndcg_10"] > 0.6 or kind not in ("full", "sampled")


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
    assert validation_metrics(model, ring)["ndcg_10"] == pytest.approx(best)


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


@pytest.fixture(scope="module")
def two_worlds() -> RetrievalData:
    """Viewers watch some of the even videos, or some of the odd ones; v20 is unwatched."""
    ids = [f"v{row}" for row in range(21)]
    random = np.random.default_rng(0)
    walks = {
        f"viewer-{number:02}": [ids[2 * row + number % 2] for row in random.permutation(10)[:5]]
        for number in range(40)
    }
    return RetrievalData.build(watches_frame(walks), videos_frame(ids), viewers_frame({}))


def vectors_of(data: RetrievalData, seed: int = 0) -> np.ndarray:
    vectors = first_vectors(data, 4, seed)
    assert vectors is not None
    return vectors


def test_videos_of_one_world_start_nearer_to_each_other_than_to_the_other_world(
    two_worlds: RetrievalData,
) -> None:
    vectors = vectors_of(two_worlds)
    assert vectors.shape == (21, 4)
    assert vectors.dtype == np.float32
    assert vectors.std() == pytest.approx(SPREAD, rel=0.1)
    likeness = vectors @ vectors.T
    even, odd = likeness[0, 2:20:2], likeness[0, 1:20:2]
    assert even.max() > 0
    assert even.mean() > odd.mean()
    assert np.allclose(vectors[20], 0, atol=1e-6)


def test_the_seed_turns_the_start(two_worlds: RetrievalData) -> None:
    first, again, other = (vectors_of(two_worlds, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    # Only turned: how near videos are to each other stays.
    assert np.allclose(first @ first.T, other @ other.T, atol=1e-6)


def test_too_few_videos_or_watches_give_no_start(two_worlds: RetrievalData) -> None:
    assert first_vectors(two_worlds, 21, seed=0) is None
    walks = watches_frame({"a": ["v0"], "b": ["v1"]})
    lonely = RetrievalData.build(walks, videos_frame(["v0", "v1", "v2"]), viewers_frame({}))
    assert first_vectors(lonely, 2, seed=0) is None
