"""Runs the stages of a chain, and owns what stages don't: order, contracts, failures, deadlines.

Pods run a `Pipeline` of stages over columns; the gateway runs its calls of pods as stages of a
`Run` too, one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import numpy as np
import structlog

from vireo.server.arrays import BoolArray, Float32Array
from vireo.server.recommend.candidates import Candidates

log = structlog.get_logger()

_Q = TypeVar("_Q", contravariant=True)

Query = TypeVar("Query")


class CallerGoneError(Exception):
    """Nobody waits for the result any more. Never a failure to answer without."""


class StageError(Exception):
    """A stage broke its contract: columns missing, superfluous or of the wrong length."""


class Caller:
    """One call's caller, who waits until the call's deadline."""

    def __init__(self, left: float | None = None) -> None:
        """Start the clock; `left` is the seconds until its deadline, None without one."""
        self._deadline = math.inf if left is None else time.monotonic() + left

    @property
    def left(self) -> float:
        """Seconds until its deadline, below 0 after it."""
        return self._deadline - time.monotonic()

    @property
    def gone(self) -> bool:
        """Whether its deadline has passed."""
        return self.left <= 0

    def check(self) -> None:
        """Raise CallerGoneError if it has gone."""
        if self.gone:
            raise CallerGoneError("the caller has gone")


class Observer:
    """Is told of stages' times and failures; this one logs failures, for chains without metrics."""

    def ended(self, stage: str, seconds: float) -> None:
        """Note that a stage has ended, and how long it took."""

    def failed(self, stage: str, error: Exception, seconds: float) -> None:
        """Note that a stage failed, and is left out of the response."""
        log.error(
            "stage failed; answering without it",
            stage=stage,
            seconds=round(seconds, 4),
            exc_info=error,
        )


@dataclass
class Run:
    """One run of a chain: its caller, its failures and times, and what it may fail without."""

    observer: Observer = field(default_factory=Observer)
    caller: Caller = field(default_factory=Caller)
    fail_open: bool = True
    """False lets every failure fail the run, whatever its stage declares: for training."""
    failures: dict[str, Exception] = field(default_factory=dict)
    """Error of each stage that was left out, by its name."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took, by its kind and name."""

    def stage(self, name: str, open_to: type[Exception] | None = None, kind: str = "") -> Stage:
        """Return the context in which a stage runs.

        Args:
            name: the stage's.
            open_to: failures without which the run goes on; None for none.
            kind: kind of stage, which its metrics name too.
        """
        return Stage(self, name, open_to if self.fail_open else None, kind)


class Stage:
    """Begins a stage if the caller still waits; times it, and applies its policy of failure."""

    __slots__ = ("_label", "_name", "_open_to", "_run", "_started")

    def __init__(
        self, run: Run, name: str, open_to: type[Exception] | None, kind: str = ""
    ) -> None:
        self._run, self._name, self._open_to = run, name, open_to
        self._label = f"{kind}.{name}" if kind else name

    def __enter__(self) -> None:
        self._run.caller.check()
        self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        seconds = time.perf_counter() - self._started
        run, label = self._run, self._label
        if error is not None:
            if (
                self._open_to is None
                or not isinstance(error, self._open_to)
                or isinstance(error, CallerGoneError)
            ):
                return False
            run.failures[self._name] = error
            run.observer.failed(label, error, seconds)
        run.seconds[label] = seconds
        run.observer.ended(label, seconds)
        return error is not None


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

    def run(self, query: Query, run: Run) -> Candidates:
        """Return the candidates that the chain selects for one query.

        Raises:
            CallerGoneError: the caller had gone before a stage.
            Exception: whatever a stage raised that doesn't fail open, or the last source's
                failure if every source failed.
        """
        candidates = self._propose(query, run)
        for each in self.filters:
            with run.stage(each.name, kind="filter"):
                candidates = _kept(each, query, candidates)
        if self.merge is not None:
            with run.stage(self.merge.name, kind="selector"):
                candidates = self.merge.select(query, candidates)
        for scorer in self.scorers:
            scored = None
            with run.stage(scorer.name, Exception if scorer.fail_open else None, "scorer"):
                scored = _scored(scorer, query, candidates)
            candidates = _neutral(scorer, candidates) if scored is None else scored
        with run.stage(self.selector.name, kind="selector"):
            selected = self.selector.select(query, candidates)
        return selected  # noqa: RET504  # a stage may swallow exceptions, which checkers fear

    def _propose(self, query: Query, run: Run) -> Candidates:
        parts = []
        for source in self.sources:
            with run.stage(source.name, Exception if source.fail_open else None, "source"):
                parts.append(source.propose(query))
        if not parts and self.sources:
            raise run.failures[self.sources[-1].name]
        return Candidates.concatenate(parts)


def _kept(stage: Filter[Query], query: Query, candidates: Candidates) -> Candidates:
    kept = stage.keep(query, candidates)
    if kept.shape != (len(candidates),) or kept.dtype != np.bool_:
        raise StageError(
            f"filter {stage.name} returned {kept.dtype}{list(kept.shape)} "
            f"for {len(candidates)} candidates"
        )
    return candidates if kept.all() else candidates.take(kept.nonzero()[0])


def _scored(stage: Scorer[Query], query: Query, candidates: Candidates) -> Candidates:
    columns = stage.score(query, candidates)
    if columns.keys() != stage.columns.keys():
        raise StageError(f"scorer {stage.name} returned {list(columns)}")
    return candidates.with_scores(columns)


def _neutral(stage: Scorer[Query], candidates: Candidates) -> Candidates:
    count = len(candidates)
    return candidates.with_scores(
        {name: np.full(count, value, np.float32) for name, value in stage.columns.items()}
    )
