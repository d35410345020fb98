"""The kinds of stages. A stage is pure; what it costs and how it fails is the runner's business.

`fail_open` is a policy declared beside the stage: True leaves a failed stage out of the answer,
logged with its stack and reported; False fails the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from server.pipeline.candidates import Candidates

Query = TypeVar("Query", contravariant=True)


class Source(Protocol[Query]):
    """Proposes candidates, best first."""

    @property
    def name(self) -> str:
        """Its name in reports and logs."""

    @property
    def fail_open(self) -> bool:
        """Whether the answer may do without it."""

    def propose(self, query: Query) -> Candidates:
        """The candidates that this source proposes, best first."""


class Filter(Protocol[Query]):
    """Keeps or removes each candidate. A filter never fails open: what it removes must go."""

    @property
    def name(self) -> str:
        """Its name in reports and logs."""

    def keep(self, query: Query, candidates: Candidates) -> npt.NDArray[np.bool_]:
        """Which candidates stay, bool[n]."""


class Scorer(Protocol[Query]):
    """Adds score columns; never drops or reorders."""

    @property
    def name(self) -> str:
        """Its name in reports and logs."""

    @property
    def columns(self) -> Mapping[str, float]:
        """The columns that it adds, each with its value if it failed and fails open."""

    @property
    def fail_open(self) -> bool:
        """Whether the answer may do without its scores."""

    def score(self, query: Query, candidates: Candidates) -> Mapping[str, npt.NDArray[np.float32]]:
        """Each of its columns, float32[n]."""


class Selector(Protocol[Query]):
    """Chooses among the candidates and orders them. Never fails open."""

    @property
    def name(self) -> str:
        """Its name in reports and logs."""

    def select(self, query: Query, candidates: Candidates) -> Candidates:
        """The chosen candidates, in order."""


class SideEffect(Protocol[Query]):
    """Does something with a finished selection; always fails open."""

    @property
    def name(self) -> str:
        """Its name in reports and logs."""

    def run(self, query: Query, selected: Candidates) -> None:
        """Acts on what was selected."""
