"""A training state on disk: written whole or not at all, and only taken up where it fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from server.errors import VireoError

CHECKPOINT = "retrieval.pt"


class CheckpointError(VireoError):
    """A checkpoint that can't be read."""


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes `state`, replacing the checkpoint before in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (CHECKPOINT + ".partial")
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / CHECKPOINT)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state on disk, or None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged; delete it to train afresh"
        ) from error
    return state
