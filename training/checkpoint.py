"""Training checkpoints, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from server.errors import VireoError


class CheckpointError(VireoError):
    """A checkpoint can't be read."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state`, replacing the previous checkpoint atomically.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            _save(state, file)
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Target:
    """A file that keeps the OSError of a failed write."""

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
        try:
            self.file.flush()
        except OSError as error:
            self.refused = error
            raise


def _save(state: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a state straight to the file; a copy in memory would double a large model's."""
    target = _Target(file)
    try:
        torch.save(dict(state), target)  # type: ignore[arg-type]
        target.flush()
    except Exception:
        # torch reports a full disk as an internal error.
        if target.refused is not None:
            raise target.refused from None
        raise


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state on disk, or None if there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged; delete it to train afresh"
        ) from error
    return state
