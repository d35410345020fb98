from __future__ import annotations

import pytest
import torch

from vireo.training.ranking.calibration import fit_platt
from vireo.training.ranking.loss import level_loss, listwise_loss, outcome_loss

REAL = torch.tensor([[True, True, True], [True, True, False]])


def test_the_listwise_loss_is_that_of_the_watched_video_among_the_real_ones() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 99.0]])
    loss = listwise_loss(logits, REAL, torch.tensor([2, 0]))
    first = torch.log_softmax(logits[0], 0)[2]
    second = torch.log_softmax(logits[1, :2], 0)[0]
    assert loss.item() == pytest.approx(-(first + second).item() / 2)


def test_a_list_that_missed_its_video_is_left_out() -> None:
    logits = torch.randn(2, 3)
    both = listwise_loss(logits, REAL, torch.tensor([1, -1]))
    assert both.item() == pytest.approx(
        listwise_loss(logits[:1], REAL[:1], torch.tensor([1])).item()
    )


def test_no_hit_at_all_is_no_loss_and_no_nan() -> None:
    assert listwise_loss(torch.randn(2, 3), REAL, torch.tensor([-1, -1])).item() == 0


def test_the_level_counts_a_missed_list_as_all_negatives() -> None:
    low, high = torch.full((2, 3), -5.0), torch.full((2, 3), 5.0)
    missed = torch.tensor([-1, -1])
    assert level_loss(low, REAL, missed) < level_loss(high, REAL, missed)


def test_padding_has_no_part_in_the_level() -> None:
    logits = torch.zeros(2, 3)
    other = logits.clone()
    other[1, 2] = 50.0
    label = torch.tensor([0, 1])
    assert torch.equal(level_loss(logits, REAL, label), level_loss(other, REAL, label))


def test_calibration_finds_the_scale_and_offset_that_labels_were_drawn_with() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, generator=generator)
    labels = torch.bernoulli(torch.sigmoid(2.0 * logits - 1.0), generator=generator)
    scale, offset = fit_platt(logits, labels)
    assert scale == pytest.approx(2.0, abs=0.1)
    assert offset == pytest.approx(-1.0, abs=0.1)


def test_calibration_never_turns_the_order_around() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2))
    scale, _ = fit_platt(logits, (logits < 0).float())
    assert scale > 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_kind_leave_the_logits_alone(label: float) -> None:
    assert fit_platt(torch.randn(10), torch.full((10,), label)) == (1.0, 0.0)


def test_an_unknown_outcome_counts_for_no_loss_and_no_gradient() -> None:
    nan = float("nan")
    logits = torch.tensor([[1.0, 5.0], [2.0, 5.0]], requires_grad=True)
    losses = outcome_loss(logits, torch.tensor([[1.0, nan], [nan, nan]]))
    assert losses.tolist() == pytest.approx([-torch.sigmoid(torch.tensor(1.0)).log().item(), 0])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[1:].tolist() == [[0, 0]]
