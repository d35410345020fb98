"""The losses, over all videos or a sample of them, are those of the plain cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.loss import (
    CHUNK,
    Later,
    SampledSoftmax,
    cross_entropy,
    full_softmax_loss,
)
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.windows import WindowBatch, epoch_batches

POSITIONS, VIDEOS, SAMPLE, SIZE = CHUNK + 100, 300, 40, 16
Case = tuple[list[tuple[int, int]], Callable[..., Tensor], Callable[..., Tensor]]
"""Shapes of the inputs, the plain loss, and ours."""


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def later(videos: int) -> tuple[Later, Tensor]:
    """A tenth of the vectors that each position must not see, and the same as a mask."""
    published = torch.arange(videos) * 100 // videos
    moments = torch.randint(80, 101, (POSITIONS,), generator=random(3))
    return Later(published, moments), published > moments[:, None]


def full(hidden: bool) -> Case:
    targets = torch.randint(VIDEOS, (POSITIONS,), generator=random(1))
    unseen, mask = later(VIDEOS)
    if hidden:
        targets = targets * 79 // 100  # each is there at its own time
    else:
        mask = torch.zeros_like(mask)

    def plain(states: Tensor, vectors: Tensor) -> Tensor:
        return F.cross_entropy((states @ vectors.T).masked_fill(mask, -torch.inf), targets)

    def fused(states: Tensor, vectors: Tensor) -> Tensor:
        return cross_entropy(states, vectors, targets, unseen if hidden else None)

    return [(POSITIONS, SIZE), (VIDEOS, SIZE)], plain, fused


def sampled(hidden: bool) -> Case:
    pairs = torch.rand((POSITIONS, SAMPLE), generator=random(2)) < 0.05
    expected = torch.randn(SAMPLE, generator=random(4))
    unseen, mask = later(SAMPLE)
    mask = mask | pairs if hidden else pairs

    def plain(states: Tensor, own: Tensor, vectors: Tensor) -> Tensor:
        others = (states @ vectors.T - expected).masked_fill(mask, -torch.inf)
        logits = torch.cat([(states * own).sum(1, keepdim=True), others], dim=1)
        return F.cross_entropy(logits, torch.zeros(POSITIONS, dtype=torch.int64))

    def fused(states: Tensor, own: Tensor, vectors: Tensor) -> Tensor:
        some, first = unseen if hidden else None, torch.zeros(POSITIONS, dtype=torch.int64)
        return cross_entropy(states, vectors, first, some, own, expected, pairs.nonzero())

    return [(POSITIONS, SIZE), (POSITIONS, SIZE), (SAMPLE, SIZE)], plain, fused


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("kind", [full, sampled])
def test_loss_and_gradients_are_those_of_the_plain_one(
    kind: Callable[[bool], Case], hidden: bool, autocast: bool
) -> None:
    torch.manual_seed(0)
    shapes, plain, fused = kind(hidden)
    given = [torch.randn(shape).mul(0.7).requires_grad_() for shape in shapes]
    wanted = plain(*given)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused(*given)
    assert found.item() == pytest.approx(wanted.item(), rel=0.01 if autocast else 1e-5)
    ours, theirs = (torch.autograd.grad(2 * loss, given) for loss in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        if autocast:
            assert (one - other).norm() < 0.01 * other.norm()
        else:
            assert torch.allclose(one, other, atol=1e-5)


@pytest.fixture(scope="module")
def model(ring: RetrievalData, small: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(ring, replace(small, id_dropout=0.0))
    torch.nn.init.normal_(model.video_tower.id_embedding.weight)
    return model.eval()


@pytest.fixture(scope="module")
def batch(ring: RetrievalData, small: RetrievalConfig) -> WindowBatch:
    return next(epoch_batches(ring, small, 0))


@pytest.mark.parametrize("counts", ["its own", "skewed"])
@pytest.mark.parametrize("published", [False, True])
def test_a_large_sample_estimates_the_full_loss_however_often_videos_are_drawn(
    ring: RetrievalData, model: TwoTower, batch: WindowBatch, counts: str, published: bool
) -> None:
    some, when = batch, None
    if published:
        some = WindowBatch(*(part[:2] for part in batch))
        when = some.moments.max() + 1 + torch.zeros(ring.video_count, dtype=torch.int64)
        when[some.targets[some.targets >= 0]] = 0
    wanted = full_softmax_loss(model, some, when).item()
    if published:
        assert wanted < full_softmax_loss(model, some).item() - 0.1, "there are fewer classes"
    own = torch.from_numpy(ring.watch_counts)
    drawn = own if counts == "its own" else torch.arange(1, 31) ** 3
    estimate = SampledSoftmax(drawn, negatives=50_000, power=0.5)
    assert estimate(model, some, when).item() == pytest.approx(wanted, rel=0.03)


def test_padding_adds_nothing_to_the_loss(model: TwoTower, batch: WindowBatch) -> None:
    both = WindowBatch(*(part[:2] for part in batch))
    whole = full_softmax_loss(model, WindowBatch(*(part[:1] for part in batch)))
    cut = both.targets.clone()
    cut[1, 3:] = -1
    part = WindowBatch(
        both.history[1:, :2],
        both.gaps[1:, :3],
        both.attributes[1:],
        cut[1:, :3],
        both.context[1:, :3],
        both.moments[1:, :3],
    )
    short = full_softmax_loss(model, part)
    together = full_softmax_loss(model, both._replace(targets=cut))
    n = both.targets.shape[1]
    assert together.item() == pytest.approx((whole * n + short * 3).item() / (n + 3), rel=1e-4)
