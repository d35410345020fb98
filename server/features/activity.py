"""Bounds of a viewer's rows, and by which rules events count."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.arrays import BoolArray, Float32Array
from vireo.server.errors import VireoError

HISTORY_LIMIT = 200
"""Number of last watched videos, with times, that models read of a viewer's row."""
WATCHED_LIMIT = 5000
"""Number of watched videos that are remembered, for EASE and to filter them out."""
HIDDEN_LIMIT = 5000
"""Number of hidden videos that are remembered."""
SHOWN_LIMIT = 200
"""Number of impressions that are remembered."""
SHOWN_SECONDS = 60
"""Impressions of a video within one minute count once."""
FOLLOWED_LIMIT = 1000
"""Number of followed creators that are remembered."""

_FILE = "events.json"


class Bounce(BaseModel):
    """Which plays are bounces, and so no watches: those that ended early; by default none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fraction: float = Field(default=0.0, ge=0, le=1)
    """Plays of less than this fraction of the video are bounces."""
    seconds: float = Field(default=0.0, ge=0)
    """Plays of fewer seconds are bounces, unless half of the video was watched."""

    @staticmethod
    def parse(text: str) -> Bounce:
        """Parse a fraction, as in 0.05, or seconds, as in 10s; raises VireoError."""
        number = text.removesuffix("s")
        found = float(number) if re.fullmatch(r"\d*\.?\d+", number) else math.nan
        if number != text and math.isfinite(found):
            return Bounce(seconds=found)
        if not found <= 1:
            raise VireoError(
                f"{text!r} is no bounce; write a fraction of the video from 0 to 1, as in 0.05, "
                "or seconds, as in 10s"
            )
        return Bounce(fraction=found)

    def among(self, fractions: Float32Array, seconds: Float32Array) -> BoolArray:
        """Return which plays are bounces, bool[n]; NaN is unknown and makes none.

        Args:
            fractions: watched fraction of each play, float32[n].
            seconds: seconds watched, float32[n].
        """
        brief = (seconds < np.float32(self.seconds)) & ~(fractions >= 0.5)
        return np.asarray((fractions < np.float32(self.fraction)) | brief, np.bool_)


USUAL_BOUNCE = Bounce(fraction=0.05)
"""The rule of imports and of data sets from events, unless another is stated."""


class EventRules(BaseModel):
    """How events count in the features of one data set; a file in its feature folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    liked_fraction: float
    """Minimum watched fraction that counts as a like."""
    bounce: Bounce = Field(default=Bounce(), exclude_if=lambda bounce: bounce == Bounce())

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
        except (OSError, ValidationError) as error:
            raise VireoError(
                f"cannot read {path}: {error}; build the features again with: "
                f"vireo features build --data {folder.name}"
            ) from error
