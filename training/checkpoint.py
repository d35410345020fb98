"""A training state on disk: written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from server.errors import VireoError


class CheckpointError(VireoError):
    """A checkpoint that can't be read."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state`, replacing the checkpoint before in one step.

    Raises:
        OSError: the disk can't take it.
    """
    # Not straight to the file: of a full disk torch would tell as a bug of its own.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state on disk, or None where there is none.

    Raises:
        CheckpointError: it is damaged.
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
