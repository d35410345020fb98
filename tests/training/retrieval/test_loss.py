from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.loss import SampledSoftmax, full_softmax_loss
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.windows import epoch_batches


@pytest.fixture
def batch(ring: RetrievalData, small: RetrievalConfig) -> tuple[torch.Tensor, ...]:
    encoded = next(epoch_batches(ring.sequences, small, epoch=0)).encode()
    return tuple(torch.from_numpy(array) for array in encoded)


def model_of(ring: RetrievalData, small: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(ring, replace(small, id_dropout=0.0))
    torch.nn.init.normal_(model.video_tower.id_embedding.weight)
    return model.eval()


def test_a_large_sample_estimates_the_full_loss(
    ring: RetrievalData, small: RetrievalConfig, batch: tuple[torch.Tensor, ...]
) -> None:
    model = model_of(ring, small)
    full = full_softmax_loss(model, *batch).item()

    sampled = SampledSoftmax(torch.from_numpy(ring.watch_counts()), negatives=20_000, power=0.5)

    assert sampled(model, *batch).item() == pytest.approx(full, rel=0.02)


def test_popular_videos_drawn_more_often_do_not_bias_the_estimate(
    ring: RetrievalData, small: RetrievalConfig, batch: tuple[torch.Tensor, ...]
) -> None:
    model = model_of(ring, small)
    full = full_softmax_loss(model, *batch).item()
    skewed = torch.arange(1, 31) ** 3

    sampled = SampledSoftmax(skewed, negatives=50_000, power=0.5)

    assert sampled(model, *batch).item() == pytest.approx(full, rel=0.03)


def test_padding_adds_nothing_to_the_loss(
    ring: RetrievalData, small: RetrievalConfig, batch: tuple[torch.Tensor, ...]
) -> None:
    model = model_of(ring, small)
    history, gaps, attributes, targets, context, moments = batch
    first, second = slice(0, 1), slice(1, 2)
    whole = full_softmax_loss(model, *(part[first] for part in batch))
    cut = targets[:2].clone()
    cut[1, 3:] = -1
    short = full_softmax_loss(
        model,
        history[second, :2],
        gaps[second, :3],
        attributes[second],
        cut[second, :3],
        context[second, :3],
        moments[second, :3],
    )
    n = targets.shape[1]

    together = full_softmax_loss(
        model, history[:2], gaps[:2], attributes[:2], cut, context[:2], moments[:2]
    )

    assert together.item() == pytest.approx((whole * n + short * 3).item() / (n + 3), rel=1e-4)


def test_a_sample_estimates_the_loss_over_the_videos_that_were_published_by_then(
    ring: RetrievalData, small: RetrievalConfig, batch: tuple[torch.Tensor, ...]
) -> None:
    model, some = model_of(ring, small), [part[:2] for part in batch]
    published = some[-1].max() + 1 + torch.zeros(ring.video_count, dtype=torch.int64)
    published[some[3][some[3] >= 0]] = 0
    full = partial(full_softmax_loss, published=published)(model, *some).item()
    assert full < full_softmax_loss(model, *some).item() - 0.1, "there are fewer classes"

    sampled = SampledSoftmax(torch.from_numpy(ring.watch_counts()), negatives=20_000, power=0.5)

    estimate = partial(sampled, published=published)(model, *some).item()
    assert estimate == pytest.approx(full, rel=0.02)
