"""Which precision each model of a release has, and what that was decided by."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.releases.fields import Count, Label
from server.releases.layout import GOLDEN_TOLERANCE

Precision = Literal["float32", "int8"]
"""int8 is dynamic: the weights have 8 bits, and what comes in is rounded anew in every run."""


class Difference(BaseModel):
    """One measure of a model in float32 and in int8."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    float32: float
    int8: float
    worse_by: float
    """By how much int8 is worse; below 0 where it is better."""
    allowed: float
    """The largest `worse_by` that int8 may have; below 0 where it must be better."""


class ModelPrecision(BaseModel):
    """How one model was exported."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    chosen: Precision = "float32"
    why: str = Field(default="", max_length=1000)
    """In words; empty where nobody noted it."""
    viewers: Count = 0
    """How many of the validation part there were to compare both on; 0 where nobody tried."""
    measures: dict[Label, Difference] = Field(default={}, max_length=64)
    golden_tolerance: float = Field(default=GOLDEN_TOLERANCE, ge=0, le=1)
    """Largest absolute difference from the golden outputs that a pod accepts. In int8 it is as far
    as rounding moves them: where another processor's last bit turns a number over to the next of
    256 steps, all that follows moves with it."""


class Precisions(BaseModel):
    """Of each model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    viewer_tower: ModelPrecision = ModelPrecision()
    ranker: ModelPrecision = ModelPrecision()
