"""Muon, and sparse updates: above full_softmax_limit only rows that a batch touches change."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.trainer import Muon, RetrievalTrainer, orthogonalised

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
