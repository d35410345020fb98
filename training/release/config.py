"""How a release is made of trained models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PrecisionChoice = Literal["auto", "float32", "int8"]


@dataclass(frozen=True)
class ReleaseConfig:
    """The `[release]` section of a profile."""

    precision: PrecisionChoice = "auto"
    """Of the viewer tower and the ranker: "auto" takes int8 for each where
    `training.release.precision.Bounds` allow it. That measures the processor, so to make the same
    release on any machine, say which."""
