"""What both models use of PyTorch on CPUs: modules, threads, bfloat16, and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from vireo.server.errors import VireoError


class ByteDropout(nn.Module):
    """Dropout with probability `p`, rounded to 1/256; scales the values that it keeps.

    One 64-bit draw decides eight values instead of one: masks cost a sixth of PyTorch's, which on a
    CPU take most of the time.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.threshold = min(round(256 * p), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, float[...], with values dropped; `x` itself outside training."""
        if not self.training or not self.threshold:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * (kept.to(x.dtype) * (256 / (256 - self.threshold)))


class ContextEmbeddings(nn.Module):
    """An embedding of each feature of the context; that of an unknown one is 0."""

    def __init__(self, sizes: Iterable[int], dimension: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Embedding(size, dimension, padding_idx=0) for size in sizes
        )
        for weight in self.parameters():
            nn.init.zeros_(weight)  # what training never sees adds nothing

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Return the embedding of each feature, float32[..., e], of int64[..., c]."""
        return [feature(ids[..., place]) for place, feature in enumerate(self.features)]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` torch threads; None is one for each core that may be used.

    One is right for small tensors: a second gains little on idle cores, and on busy ones the
    two wait for each other at every operation, which is many times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores(root: Path = Path("/")) -> int:
    """Return the number of whole cores, at least one, by cgroup v2's quota and the CPU affinity.

    A fraction of a core is left out: the kernel would throttle a process for it all the time. A
    group has at most the quota of each group that contains it. If a container sees only its own
    group, that is the root of what it sees, whatever its path outside.

    Args:
        root: the folder below which /proc and /sys are.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    mount = root / "sys/fs/cgroup"
    group = _cgroup(root / "proc/self/cgroup")
    quotas = (_cpu_quota(mount / each / "cpu.max") for each in (group, *group.parents))
    return max(1, int(min(allowed, *quotas)))


def _cgroup(file: Path) -> PurePosixPath:
    """Return the path of the process's cgroup below the mount; the root's if it isn't known."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return PurePosixPath()
    for line in lines:
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0" and ".." not in path:
            return PurePosixPath(path.strip("/"))
    return PurePosixPath()


def _cpu_quota(file: Path) -> float:
    """Return the quota in a `cpu.max`, "200000 100000" for two cores; infinity without one."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" is no number
        return math.inf


def bfloat16_is_fast() -> bool:
    """Return whether this processor multiplies bfloat16 natively; without, it is slower."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class CheckpointError(VireoError):
    """A checkpoint can't be read or written."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint by `state`, atomically.

    Raises:
        CheckpointError: it can't be written, for example because the disk is full.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as an error of its own
        raise CheckpointError(
            f"cannot write {path}: {error}; check free space and permissions there"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state on disk, or None if there is none; raise CheckpointError if damaged."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged; delete it to train afresh"
        ) from error
    return state


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints in `folder` of the phases of a training whose inputs have this `fingerprint`."""

    folder: Path
    fingerprint: str

    def path(self, phase: str) -> Path:
        """Return the place of a phase's checkpoint."""
        return self.folder / f"{phase}.pt"

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a phase; raise CheckpointError if the file can't be written."""
        write_checkpoint(self.path(phase), {"fingerprint": self.fingerprint, **state})

    def read(self, phase: str) -> dict[str, Any] | None:
        """Return the state of a phase, or None if it is missing or of another training.

        Raises:
            CheckpointError: the file is damaged.
        """
        state = read_checkpoint(self.path(phase))
        matches = state is not None and state.pop("fingerprint", None) == self.fingerprint
        return state if matches else None
