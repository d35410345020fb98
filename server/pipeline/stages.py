"""The kinds of stages. A stage is pure; its order and its failures are the runner's business.

`fail_open` is a policy declared beside the stage: True leaves a failed stage out of the answer,
logged with its stack and reported; False fails the request. A stage's `name` is the one in logs
and reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from server.arrays import BoolArray, Float32Array
from server.pipeline.candidates import Candidates

Query = TypeVar("Query", contravariant=True)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _MayFail(_Named, Protocol):
    @property
    def fail_open(self) -> bool: ...


class Source(_MayFail, Protocol[Query]):
    """Proposes candidates."""

    def propose(self, query: Query) -> Candidates:
        """Return the candidates that this source proposes, best first."""


class Filter(_Named, Protocol[Query]):
    """Keeps or removes each candidate. It never fails open: a filter's videos must not be shown."""

    def keep(self, query: Query, candidates: Candidates) -> BoolArray:
        """Return which candidates stay, bool[n]."""


class Scorer(_MayFail, Protocol[Query]):
    """Adds score columns; never drops or reorders."""

    @property
    def columns(self) -> Mapping[str, float]:
        """The columns that it adds, each with its value if it failed and fails open."""

    def score(self, query: Query, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return each of its columns, float32[n]."""


class Selector(_Named, Protocol[Query]):
    """Chooses among the candidates and orders them. Never fails open."""

    def select(self, query: Query, candidates: Candidates) -> Candidates:
        """Return the chosen candidates, in order."""
