from __future__ import annotations

import pytest
import torch

from vireo.training.modules import ByteDropout


def test_the_share_asked_for_is_dropped_independently_and_the_mean_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 801, requires_grad=True)
    y = ByteDropout(0.4)(x)
    kept = (y > 0).float()
    assert kept.mean().item() == pytest.approx(0.6, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.005)
    assert len(y.unique()) == 2
    for apart in range(1, 17):
        both = (kept[:, apart:] * kept[:, :-apart]).mean().item()
        assert both == pytest.approx(0.36, abs=0.005)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.ones(10)
    assert ByteDropout(0.9).eval()(x) is x
    assert ByteDropout(0.0)(x) is x
