"""The ranker's training state on disk, one file for each phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.checkpoint import read_checkpoint, write_checkpoint


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints in `folder` of a training with this `fingerprint`."""

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
