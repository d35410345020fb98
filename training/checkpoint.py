"""Training checkpoints, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from vireo.server.errors import VireoError


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
    """Checkpoints in `folder` of the phases of a ranker's training with this `fingerprint`."""

    folder: Path
    fingerprint: str

    def _path(self, phase: str) -> Path:
        return self.folder / f"ranking_{phase}.pt"

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a phase; raise CheckpointError if the file can't be written."""
        write_checkpoint(self._path(phase), {"fingerprint": self.fingerprint, **state})

    def read(self, phase: str) -> dict[str, Any] | None:
        """Return the state of a phase, or None if it is missing or of another training.

        Raises:
            CheckpointError: the file is damaged.
        """
        state = read_checkpoint(self._path(phase))
        matches = state is not None and state.pop("fingerprint", None) == self.fingerprint
        return state if matches else None
