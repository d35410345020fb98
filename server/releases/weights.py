"""Weights of a release's sources and tasks, as its manifest states them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, RootModel

from vireo.server import signals
from vireo.server.arrays import Float32Array
from vireo.server.releases.fields import Label

Share = Annotated[float, Field(ge=0, le=1)]
TaskWeight = Annotated[float, Field(ge=0, le=100)]
"""Exponent of a probability: a negative one would make 0 infinite."""
_DIVERSITY = "diversity"


def _of_every_source(shares: dict[str, float]) -> dict[str, float]:
    """Return the share of every source that has a quota, its default if it isn't given."""
    declared = {each.name: each.quota for each in signals.SOURCES if each.quota is not None}
    _refuse_others(shares, declared, "source with a quota")
    every = {name: shares.get(name, quota) for name, quota in declared.items()}
    if sum(every.values()) > 1:
        raise ValueError(f"{', '.join(every)} together must be at most 1")
    return every


def _of_every_task(weights: dict[str, float]) -> dict[str, float]:
    """Return the weight of every task, its default if it isn't given, and the diversity.

    An optional task whose weight isn't given has none: earlier builds don't know it.
    """
    declared = {each.name: each.weight for each in signals.TASKS} | {_DIVERSITY: 0.0}
    _refuse_others(weights, declared, "task")
    left_out = {each.name for each in signals.TASKS if each.optional} - weights.keys()
    return {
        name: weights.get(name, weight) for name, weight in declared.items() if name not in left_out
    }


def _refuse_others(given: Mapping[str, float], names: Iterable[str], kind: str) -> None:
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]} is no {kind}; those are {', '.join(names)}")


_Shares = Annotated[dict[Label, Share], AfterValidator(_of_every_source)]
_Weights = Annotated[dict[Label, TaskWeight], AfterValidator(_of_every_task)]


class Quotas(RootModel[_Shares]):
    """Shares of the candidates kept for the best of each source; two-tower gets the remainder.

    Training fits them to validation, see `vireo.training.evaluation.choices`. Fresh videos lower
    recall, and get a few places nonetheless, or they would never be watched.
    """

    model_config = ConfigDict(frozen=True, validate_default=True)
    root: _Shares = Field(default={})


class ScoreWeights(RootModel[_Weights]):
    """Exponent of each task's probability in the score that orders a slate, and `diversity`."""

    model_config = ConfigDict(frozen=True, validate_default=True)
    root: _Weights = Field(default={})

    @property
    def diversity(self) -> float:
        """Strength of the diversity re-ranking, 0 for none; see `diverse_order`."""
        return self.root[_DIVERSITY]

    def with_diversity(self, strength: float) -> ScoreWeights:
        """Return these weights with another diversity."""
        return ScoreWeights({**self.root, _DIVERSITY: strength})

    def combined(self, tasks: Mapping[str, Float32Array]) -> Float32Array:
        """Return the product of the tasks' probabilities, each to the power of its weight.

        An unwanted task counts as 1 minus its probability.
        """
        wanted: dict[str, Float32Array] = {
            # Rounding may exceed 1.
            name: np.maximum(1 - values, 0) if name in signals.UNWANTED else values
            for name, values in tasks.items()
        }
        powers = [values ** self.root.get(name, 0.0) for name, values in wanted.items()]
        return reduce(np.multiply, powers)
