"""Bounds of a viewer's rows, which `training.features` writes, and by which rules events count."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from server.errors import VireoError

HISTORY_LIMIT = 200
"""Number of last watched videos, with times, that models read of a viewer's row."""
WATCHED_LIMIT = 5000
"""Number of watched videos that are remembered, for EASE and to filter them out."""
HIDDEN_LIMIT = 5000
"""Number of hidden videos that are remembered."""

_FILE = "events.json"


class EventRules(BaseModel):
    """How events count in the features of one data set; a file in its feature folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    liked_fraction: float | None
    """Minimum watched fraction that counts as a like; None in data with ratings."""

    def write(self, folder: Path) -> None:
        """Write the rules into a feature folder."""
        (folder / _FILE).write_text(self.model_dump_json(indent=2) + "\n")

    @staticmethod
    def load(folder: Path) -> EventRules:
        """Load the rules of a feature folder.

        Raises:
            VireoError: there are none, or they can't be read.
        """
        path = folder / _FILE
        try:
            return EventRules.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise VireoError(
                f"the features in {folder} were built before events could be applied to them; "
                f"build them again with: vireo features build {folder.name}"
            ) from error
        except (OSError, ValidationError) as error:
            raise VireoError(
                f"cannot read {path}: {error}; build the features again with: "
                f"vireo features build {folder.name}"
            ) from error
