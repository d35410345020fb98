from __future__ import annotations

import pytest
import torch

from vireo.training.modules import ByteDropout


def test_the_share_asked_for_is_dropped_and_the_mean_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)

    dropped = ByteDropout(0.4)(x)

    assert (dropped == 0).float().mean().item() == pytest.approx(0.4, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    assert len(dropped.unique()) == 2


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (ByteDropout(0.5)(torch.ones(800_000)) > 0).float()

    for apart in range(1, 17):
        both = (kept[apart:] * kept[:-apart]).mean().item()
        assert both == pytest.approx(0.25, abs=0.005)


def test_gradients_pass_only_through_kept_values() -> None:
    torch.manual_seed(0)
    x = torch.ones(3, 5, requires_grad=True)

    y = ByteDropout(0.5)(x)
    y.sum().backward()

    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.ones(10)

    assert ByteDropout(0.9).eval()(x) is x
    assert ByteDropout(0.0)(x) is x
