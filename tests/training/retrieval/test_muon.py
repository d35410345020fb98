from __future__ import annotations

import pytest
import torch
from torch import nn

from vireo.training.retrieval.optimizer import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_orthogonalised_matrix_keeps_its_directions_and_evens_out_their_sizes(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() / sizes.min() > 2

    made = orthogonalised(matrix)

    in_the_same_basis = left.T @ made @ right.T
    found = in_the_same_basis.diagonal()
    # The polynomial settles around 1, not at it.
    assert ((found > 0.6) & (found < 1.3)).all()
    assert torch.allclose(in_the_same_basis, torch.diag(found), atol=1e-4)


def test_the_step_size_matches_adamws_for_any_gradient() -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1e3):
        matrix = nn.Parameter(torch.zeros(32, 128))
        matrix.grad = torch.randn(32, 128) * scale
        Muon([matrix], lr=0.1, weight_decay=0.0).step()
        size = matrix.detach().square().mean().sqrt().item()
        assert size == pytest.approx(0.2 * 0.1, rel=0.25)


def test_zero_gradient_and_no_gradient_leave_the_matrix_but_for_its_decay() -> None:
    still = nn.Parameter(torch.ones(4, 4))
    still.grad = torch.zeros(4, 4)
    left_out = nn.Parameter(torch.ones(4, 4))
    Muon([still, left_out], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(still, torch.full((4, 4), 0.95))
    assert torch.equal(left_out, torch.ones(4, 4))


def test_momentum_survives_a_checkpoint() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, 8, 8)
    whole, resumed = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    optimizer = Muon([whole], lr=0.1, weight_decay=0.0)
    for gradient in gradients:
        whole.grad = gradient
        optimizer.step()

    first = Muon([resumed], lr=0.1, weight_decay=0.0)
    for gradient in gradients[:2]:
        resumed.grad = gradient
        first.step()
    second = Muon([resumed], lr=0.1, weight_decay=0.0)
    second.load_state_dict(first.state_dict())
    resumed.grad = gradients[2]
    second.step()

    assert torch.equal(whole, resumed)
