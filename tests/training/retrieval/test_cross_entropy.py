from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vireo.training.retrieval.loss import CHUNK, Later, cross_entropy, sampled_cross_entropy

POSITIONS, VIDEOS, SIZE = CHUNK + 100, 300, 16


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).mul(0.7).requires_grad_() for shape in shapes]


def gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(2 * loss, of))


def targets() -> Tensor:
    return torch.randint(VIDEOS, (POSITIONS,), generator=torch.Generator().manual_seed(1))


def test_loss_and_gradients_are_those_of_the_plain_cross_entropy() -> None:
    states, vectors = given = leaves((POSITIONS, SIZE), (VIDEOS, SIZE))
    plain = F.cross_entropy(states @ vectors.T, targets())

    fused = cross_entropy(states, vectors, targets())

    assert fused.item() == pytest.approx(plain.item(), abs=1e-5)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_under_autocast_they_are_so_to_one_in_a_hundred() -> None:
    states, vectors = given = leaves((POSITIONS, SIZE), (VIDEOS, SIZE))
    plain = F.cross_entropy(states @ vectors.T, targets())

    with torch.autocast("cpu", torch.bfloat16):
        fused = cross_entropy(states, vectors, targets())

    assert fused.item() == pytest.approx(plain.item(), rel=0.01)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def sample() -> tuple[Tensor, Tensor, Tensor]:
    """Correction of 40 sampled vectors, whether each position must not see each, and the pairs."""
    random = torch.Generator().manual_seed(2)
    hidden = torch.rand((POSITIONS, 40), generator=random) < 0.05
    return torch.randn(40, generator=random), hidden, hidden.nonzero()


def plain_sampled(states: Tensor, own: Tensor, vectors: Tensor) -> Tensor:
    log_expected, hidden, _ = sample()
    others = (states @ vectors.T - log_expected).masked_fill(hidden, -torch.inf)
    logits = torch.cat([(states * own).sum(1, keepdim=True), others], dim=1)
    return F.cross_entropy(logits, torch.zeros(POSITIONS, dtype=torch.int64))


def test_the_sampled_loss_and_its_gradients_are_those_of_the_plain_one() -> None:
    states, own, vectors = given = leaves((POSITIONS, SIZE), (POSITIONS, SIZE), (40, SIZE))
    log_expected, _, pairs = sample()
    plain = plain_sampled(states, own, vectors)

    fused = sampled_cross_entropy(states, own, vectors, log_expected, pairs)

    assert fused.item() == pytest.approx(plain.item(), abs=1e-5)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_so_it_is_under_autocast_to_one_in_a_hundred() -> None:
    states, own, vectors = given = leaves((POSITIONS, SIZE), (POSITIONS, SIZE), (40, SIZE))
    log_expected, _, pairs = sample()
    plain = plain_sampled(states, own, vectors)

    with torch.autocast("cpu", torch.bfloat16):
        fused = sampled_cross_entropy(states, own, vectors, log_expected, pairs)

    assert fused.item() == pytest.approx(plain.item(), rel=0.01)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def later(videos: int) -> tuple[Later, Tensor]:
    """A tenth of the vectors that each position must not see, and the same as a mask."""
    published = torch.arange(videos) * 100 // videos
    moments = torch.randint(80, 101, (POSITIONS,), generator=torch.Generator().manual_seed(3))
    return Later(published, moments), published > moments[:, None]


def test_what_is_published_later_is_no_class() -> None:
    states, vectors = given = leaves((POSITIONS, SIZE), (VIDEOS, SIZE))
    own = targets() * 79 // 100  # each is there at its own time
    unseen, mask = later(VIDEOS)
    plain = F.cross_entropy((states @ vectors.T).masked_fill(mask, -torch.inf), own)

    fused = cross_entropy(states, vectors, own, unseen)

    assert fused.item() == pytest.approx(plain.item(), abs=1e-5)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_is_published_later_is_not_in_the_sample() -> None:
    states, own, vectors = given = leaves((POSITIONS, SIZE), (POSITIONS, SIZE), (40, SIZE))
    unseen, mask = later(40)
    others = (states @ vectors.T).masked_fill(mask, -torch.inf)
    logits = torch.cat([(states * own).sum(1, keepdim=True), others], dim=1)
    plain = F.cross_entropy(logits, torch.zeros(POSITIONS, dtype=torch.int64))
    none = torch.empty((0, 2), dtype=torch.int64)

    fused = sampled_cross_entropy(states, own, vectors, torch.zeros(40), none, unseen)

    assert fused.item() == pytest.approx(plain.item(), abs=1e-5)
    for ours, theirs in zip(gradients(fused, given), gradients(plain, given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
