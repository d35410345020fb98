from __future__ import annotations

import pytest
import torch

from vireo.training.ranking.loss import level_loss, listwise_loss, outcome_loss

REAL = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(("labels", "counted"), [([2, 0], [0, 1]), ([1, -1], [0]), ([-1, -1], [])])
def test_the_listwise_loss_is_that_of_the_watched_video_among_the_real_ones(
    labels: list[int], counted: list[int]
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 99.0]])
    losses = [-torch.log_softmax(logits[n][REAL[n]], 0)[labels[n]].item() for n in counted]
    found = listwise_loss(logits, REAL, torch.tensor(labels)).item()
    assert found == pytest.approx(sum(losses) / max(len(losses), 1))


def test_the_level_counts_a_missed_list_as_all_negatives_and_no_padding() -> None:
    low, missed = torch.full((2, 3), -5.0), torch.tensor([-1, -1])
    assert level_loss(low, REAL, missed) < level_loss(-low, REAL, missed)
    other, label = low.clone(), torch.tensor([0, 1])
    other[1, 2] = 50.0
    assert torch.equal(level_loss(low, REAL, label), level_loss(other, REAL, label))


def test_an_unknown_outcome_counts_for_no_loss_and_no_gradient() -> None:
    nan = float("nan")
    logits = torch.tensor([[1.0, 5.0], [2.0, 5.0]], requires_grad=True)
    losses = outcome_loss(logits, torch.tensor([[1.0, nan], [nan, nan]]))
    assert losses.tolist() == pytest.approx([-torch.sigmoid(torch.tensor(1.0)).log().item(), 0])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[1:].tolist() == [[0, 0]]
