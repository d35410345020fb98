"""Data-parallel training by several processes (torchrun), each on a part of every batch.

Every process holds the whole model and takes the same steps: gradients are summed over the
processes, weighted by their share of the batch's targets, so that a step equals that of a single
process.
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
"""Timeout of collective operations: the leader also prepares data and validates meanwhile."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process and size of the process group; a single process by default."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def joined() -> Processes:
        """Join the process group if torchrun started this process."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return Processes()
        dist.init_process_group("gloo", timeout=PATIENCE)
        return Processes(dist.get_rank(), count)

    @property
    def leads(self) -> bool:
        """Whether this process is the leader, which reads, writes, prints and validates."""
        return self.rank == 0

    def leader_says(self, order: str) -> str:
        """Broadcast the leader's `order` to all processes and return it."""
        if self.count == 1:
            return order
        said = [order]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def summed(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], rows: Sequence[nn.Parameter]
    ) -> None:
        """Replace every gradient by its sum over all processes; a missing one counts as zero.

        `rows` are the parameters with sparse gradients, of which only touched rows are sent.
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
        """Wait for all processes to get here, then leave the process group."""
        self.wait()
        if self.count > 1:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait for all processes to get here."""
        if self.count > 1:
            dist.barrier()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _no_rows(parameter: nn.Parameter) -> Tensor:
    none = torch.empty((1, 0), dtype=torch.int64)
    values = torch.empty((0, *parameter.shape[1:]))
    return torch.sparse_coo_tensor(none, values, parameter.shape, check_invariants=False)
