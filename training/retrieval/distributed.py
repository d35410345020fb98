"""Training by several processes (torchrun): each learns a part of every batch.

All hold the whole model and take the same steps: gradients are summed over the processes, each
weighted by its share of the batch's targets, so that a step is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first also prepares data and validates."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; the default is a run of one."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def joined() -> Processes:
        """Joins those that torchrun has started, where it has."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return Processes()
        dist.init_process_group("gloo", timeout=PATIENCE)
        return Processes(dist.get_rank(), count)

    @property
    def leads(self) -> bool:
        """Whether this is the one that reads, writes, prints and validates."""
        return self.rank == 0

    def leader_says(self, order: str) -> str:
        """Return the leading process's `order`, whatever the others pass; they wait for it."""
        if self.count == 1:
            return order
        said = [order]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def summed(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], rows: Sequence[nn.Parameter]
    ) -> None:
        """Replaces every gradient by its sum over all processes; none counts as zero.

        Args:
            parameters: those with dense gradients.
            rows: those with sparse ones, of which touched rows alone travel.
        """
        if self.count == 1:
            return
        gradients = [_gradient(parameter) for parameter in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        sums = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, values in zip(parameters, sums, strict=True):
            parameter.grad = values.view_as(parameter)
        for parameter in rows:
            gradient = parameter.grad if parameter.grad is not None else _no_rows(parameter)
            gradient = gradient.coalesce()
            dist.all_reduce(gradient)
            parameter.grad = gradient.coalesce()

    def leave(self) -> None:
        """Part from the others, once all have come this far."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    def wait(self) -> None:
        """Waits until all have come this far."""
        if self.count > 1:
            dist.barrier()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _no_rows(parameter: nn.Parameter) -> Tensor:
    none = torch.empty((1, 0), dtype=torch.int64)
    values = torch.empty((0, *parameter.shape[1:]))
    return torch.sparse_coo_tensor(none, values, parameter.shape, check_invariants=False)
