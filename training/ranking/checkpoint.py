"""The ranker's training state on disk: one file a phase, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from server.errors import VireoError


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in `folder` of a training with this `fingerprint`."""

    folder: Path
    fingerprint: str

    def _path(self, phase: str) -> Path:
        return self.folder / f"ranking_{phase}.pt"

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        """Writes the state of a phase in place of the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._path(phase).with_suffix(".partial")
        torch.save({"fingerprint": self.fingerprint, **state}, partial)
        partial.replace(self._path(phase))

    def read(self, phase: str) -> dict[str, Any] | None:
        """The state of a phase; None where there is none, or one of another training.

        Raises:
            VireoError: the file is damaged.
        """
        path = self._path(phase)
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
            raise VireoError(
                f"the checkpoint {path} is damaged; delete it to train afresh"
            ) from error
        return state if state.pop("fingerprint", None) == self.fingerprint else None
