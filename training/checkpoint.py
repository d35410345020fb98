"""Training checkpoints, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from vireo.server.errors import VireoError


class CheckpointError(VireoError):
    """A checkpoint can't be read."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint by `state`, atomically; raise OSError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            target = _Target(file)  # A copy in memory would double a large model's.
            try:
                torch.save(dict(state), target)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise target.refused or error from None
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Target:
    """A file that keeps the OSError of a failed write, which torch reports as an internal error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        """Leave it to the caller, whose error stays what it is."""


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
    """Checkpoints in `folder` of the phases of a ranker's training with this `fingerprint`."""

    folder: Path
    fingerprint: str

    def _path(self, phase: str) -> Path:
        return self.folder / f"ranking_{phase}.pt"

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a phase; raise OSError if the file can't be written."""
        write_checkpoint(self._path(phase), {"fingerprint": self.fingerprint, **state})

    def read(self, phase: str) -> dict[str, Any] | None:
        """Return the state of a phase, or None if it is missing or of another training.

        Raises:
            CheckpointError: the file is damaged.
        """
        state = read_checkpoint(self._path(phase))
        matches = state is not None and state.pop("fingerprint", None) == self.fingerprint
        return state if matches else None
