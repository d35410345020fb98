"""Runs the stages of a pipeline, and owns what stages don't: order, contracts, failures, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import structlog

from vireo.server.arrays import BoolArray, Float32Array
from vireo.server.pipeline.caller import Caller, CallerGoneError
from vireo.server.pipeline.candidates import Candidates
from vireo.server.pipeline.stage_metrics import FAILURES, SECONDS
from vireo.server.tracing import spans

log = structlog.get_logger()

_Q = TypeVar("_Q", contravariant=True)

Query = TypeVar("Query")
Result = TypeVar("Result")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _MayFail(_Named, Protocol):
    @property
    def fail_open(self) -> bool: ...


class Source(_MayFail, Protocol[_Q]):
    """Proposes candidates."""

    def propose(self, query: _Q) -> Candidates:
        """Return the candidates that this source proposes, best first."""


class Filter(_Named, Protocol[_Q]):
    """Keeps or removes each candidate. It never fails open: a filter's videos must not be shown."""

    def keep(self, query: _Q, candidates: Candidates) -> BoolArray:
        """Return which candidates stay, bool[n]."""


class Scorer(_MayFail, Protocol[_Q]):
    """Adds score columns; never drops or reorders."""

    @property
    def columns(self) -> Mapping[str, float]:
        """The columns that it adds, each with its value if it failed and fails open."""

    def score(self, query: _Q, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return each of its columns, float32[n]."""


class Selector(_Named, Protocol[_Q]):
    """Chooses among the candidates and orders them. Never fails open."""

    def select(self, query: _Q, candidates: Candidates) -> Candidates:
        """Return the chosen candidates, in order."""


class StageError(Exception):
    """A stage broke its contract: columns missing, superfluous or of the wrong length."""


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    selected: Candidates
    failures: Mapping[str, str]
    """Error of each stage that was left out, by the stage's name."""


@dataclass(frozen=True)
class Pipeline(Generic[Query]):
    """A chain of stages over one kind of query.

    Sources run one after another: their data is in memory and a process has one core, so
    running them side by side would only add the cost of handing over.
    """

    sources: tuple[Source[Query], ...]
    selector: Selector[Query]
    filters: tuple[Filter[Query], ...] = ()
    merge: Selector[Query] | None = None
    """Makes one candidate of a video that several sources proposed."""
    scorers: tuple[Scorer[Query], ...] = ()
    fail_open: bool = True
    """False lets every failure fail the run, whatever its stage declares: for training."""
    service: str = ""
    """Whose stages these are, in metrics."""

    def run(self, query: Query, caller: Caller | None = None) -> Outcome:
        """Run the chain for one query, as long as its caller waits.

        Raises:
            CallerGoneError: the caller had gone before a stage.
            Exception: whatever a stage raised that doesn't fail open, or the last source's
                failure if every source failed.
        """
        run = _Run(self.service, query, self.fail_open, caller or Caller())
        candidates = run.propose(self.sources)
        for filter_ in self.filters:
            candidates = run.keep(filter_, candidates)
        if self.merge is not None:
            candidates = run.select(self.merge, candidates)
        for scorer in self.scorers:
            candidates = run.score(scorer, candidates)
        selected = run.select(self.selector, candidates)
        return Outcome(
            selected,
            {name: f"{type(error).__name__}: {error}" for name, error in run.failures.items()},
        )


@dataclass
class _Run(Generic[Query]):
    """One run: its failures, the policy by which stages may fail, and their times."""

    service: str
    query: Query
    fail_open: bool
    caller: Caller
    failures: dict[str, Exception] = field(default_factory=dict)
    since: float = field(default_factory=time.perf_counter)
    """When the stage that runs has begun."""

    def propose(self, sources: tuple[Source[Query], ...]) -> Candidates:
        found = [
            self.attempt(
                "source", source.name, partial(source.propose, self.query), source.fail_open
            )
            for source in sources
        ]
        parts = [part for part in found if part is not None]
        if self.failures and not parts:
            raise list(self.failures.values())[-1]
        return Candidates.concatenate(parts)

    def keep(self, stage: Filter[Query], candidates: Candidates) -> Candidates:
        self.caller.check()
        kept = stage.keep(self.query, candidates)
        if kept.shape != (len(candidates),) or kept.dtype != np.bool_:
            raise StageError(
                f"filter {stage.name} returned {kept.dtype}{list(kept.shape)} "
                f"for {len(candidates)} candidates"
            )
        self.ended("filter", stage.name)
        return candidates if kept.all() else candidates.take(kept.nonzero()[0])

    def score(self, stage: Scorer[Query], candidates: Candidates) -> Candidates:
        def scored() -> Candidates:
            columns = stage.score(self.query, candidates)
            if columns.keys() != stage.columns.keys():
                raise StageError(f"scorer {stage.name} returned {list(columns)}")
            return candidates.with_scores(columns)

        with_scores = self.attempt("scorer", stage.name, scored, stage.fail_open)
        if with_scores is not None:
            return with_scores
        count = len(candidates)
        neutral = {name: np.full(count, value, np.float32) for name, value in stage.columns.items()}
        return candidates.with_scores(neutral)

    def select(self, stage: Selector[Query], candidates: Candidates) -> Candidates:
        self.caller.check()
        selected = stage.select(self.query, candidates)
        self.ended("selector", stage.name)
        return selected

    def ended(self, kind: str, name: str) -> None:
        """Record how long a stage took: stages run one after another."""
        now, stage = time.perf_counter(), f"{kind}.{name}"
        SECONDS.labels(self.service, stage).observe(now - self.since)
        spans.ended(stage, now - self.since)
        self.since = now

    def attempt(
        self, kind: str, name: str, work: Callable[[], Result], fail_open: bool
    ) -> Result | None:
        """Return the result of `work`; None if it failed and both stage and run fail open."""
        self.caller.check()
        result: Result | None
        try:
            result = work()
        except CallerGoneError:
            raise
        except Exception as error:
            if not (fail_open and self.fail_open):
                raise
            # The declared policy: answer without the stage, and hide nothing. The stack is
            # logged, and the answer itself says that the stage is missing.
            log.exception("stage failed; left out of the answer", stage=name)
            self.failures[name] = error
            FAILURES.labels(self.service, f"{kind}.{name}", "error").inc()
            result = None
        self.ended(kind, name)
        return result
