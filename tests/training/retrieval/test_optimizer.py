"""Above full_softmax_limit only the rows of the id embedding that a batch touches change."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.trainer import RetrievalTrainer

VIDEOS = 200


@pytest.fixture
def sampled(small: RetrievalConfig) -> RetrievalConfig:
    return replace(small, full_softmax_limit=10, negatives=5, ema_decay=0.95, batch_tokens=12)


@pytest.fixture
def sparse(sampled: RetrievalConfig) -> RetrievalTrainer:
    """Only videos 0 to 9 of 200 are watched."""
    ids = [f"v{number}" for number in range(VIDEOS)]
    walks = {f"w{viewer}": [ids[(viewer + step) % 10] for step in range(6)] for viewer in range(60)}
    data = RetrievalData.build(watches_frame(walks), videos_frame(ids), viewers_frame({}))
    return RetrievalTrainer(data, sampled)


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
    averages = (
        model.video_tower.id_embedding.weight for model in (sparse.average.model, average_before)
    )
    assert torch.equal(*(average[rest] for average in averages))
    assert not torch.equal(weight.detach()[:10], before[:10])


def test_no_gradient_as_large_as_the_catalogue_is_made(sparse: RetrievalTrainer) -> None:
    made: dict[int, str] = {}
    weight = sparse.model.video_tower.id_embedding.weight

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            whole = isinstance(result, torch.Tensor) and result.shape == weight.shape
            if whole and result.layout == torch.strided:  # A sparse one has no address.
                made[result.data_ptr()] = str(func)
            return result

    sparse.train_step()
    with Watching():  # type: ignore[no-untyped-call]
        sparse.train_step()

    state = sparse.state()
    rows = state["optimizer"][-1]["state"][0]
    name = "video_tower.id_embedding.weight"
    own = [
        state["model"][name],
        state["average"]["model"][name],
        rows["exp_avg"],
        rows["exp_avg_sq"],
    ]
    assert set(made) <= {tensor.data_ptr() for tensor in own}, made


def test_the_average_by_rows_is_the_average_of_every_step(sparse: RetrievalTrainer) -> None:
    plain = sparse.model.video_tower.id_embedding.weight.detach().clone()

    for step in range(20):
        sparse.train_step()
        weight = sparse.model.video_tower.id_embedding.weight.detach()
        plain.lerp_(weight, 1 - min(0.95, (step + 1) / (step + 10)))
    sparse.average.settle()

    ours = sparse.average.model.video_tower.id_embedding.weight
    assert torch.allclose(ours, plain, atol=1e-6)


def test_a_sparse_run_resumes_from_its_state_with_equal_results(
    ring: RetrievalData, sampled: RetrievalConfig
) -> None:
    straight, stopped, resumed = (RetrievalTrainer(ring, sampled) for _ in range(3))
    for _ in range(5):
        straight.train_step()
    for _ in range(2):
        stopped.train_step()
    resumed.restore(stopped.state())
    for _ in range(3):
        resumed.train_step()

    for trainer in (straight, resumed):
        trainer.average.settle()
    for ours, theirs in (
        (resumed.model, straight.model),
        (resumed.average.model, straight.average.model),
    ):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)


def test_gradients_are_clipped_together(ring: RetrievalData, sampled: RetrievalConfig) -> None:
    trainer = RetrievalTrainer(ring, replace(sampled, clip=1e-3))

    trainer.train_step()

    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    parts = [
        gradient.coalesce().values() if gradient.is_sparse else gradient
        for gradient in gradients
        if gradient is not None
    ]
    assert any(gradient is not None and gradient.is_sparse for gradient in gradients)
    norm = torch.linalg.vector_norm(torch.stack([part.norm() for part in parts]))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
