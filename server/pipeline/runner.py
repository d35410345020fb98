"""Runs the stages of a pipeline, and owns what stages don't: order, time, counts, failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import structlog

from server.pipeline.caller import Caller, CallerGoneError
from server.pipeline.candidates import Candidates
from server.pipeline.stages import Filter, Scorer, Selector, SideEffect, Source

log = structlog.get_logger()

Query = TypeVar("Query")


class StageError(Exception):
    """A stage broke its contract: columns missing, superfluous or of the wrong length."""


@dataclass(frozen=True)
class StageReport:
    """What one stage did in one run."""

    name: str
    seconds: float
    candidates: int
    """How many candidates there were after it; for a source, how many it proposed."""
    failure: str = ""
    """Why it was left out; empty when it wasn't."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    selected: Candidates
    stages: tuple[StageReport, ...]
    """In the order in which they ran."""

    def failures(self) -> dict[str, str]:
        """Why each stage that was left out failed, by the stage's name."""
        return {stage.name: stage.failure for stage in self.stages if stage.failure}


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
    side_effects: tuple[SideEffect[Query], ...] = ()
    fail_open: bool = True
    """False makes every failure fail the run, whatever its stage declares: for training."""

    def run(self, query: Query, caller: Caller | None = None) -> Outcome:
        """Runs the chain for one query, for as long as its caller, if there is one, waits.

        Raises:
            CallerGoneError: the caller had gone before a stage.
            Exception: whatever a stage raised that doesn't fail open, or the last source's
                failure when every source failed.
        """
        run = _Run(self.fail_open, caller)
        found = [run.propose(source, query) for source in self.sources]
        candidates = Candidates.concatenate(run.at_least_one(found))
        for filter_ in self.filters:
            candidates = run.filtered(filter_, query, candidates)
        if self.merge is not None:
            candidates = run.selected(self.merge, query, candidates)
        for scorer in self.scorers:
            candidates = run.scored(scorer, query, candidates)
        selected = run.selected(self.selector, query, candidates)
        for effect in self.side_effects:
            run.affected(effect, query, selected)
        return Outcome(selected, tuple(run.reports))


@dataclass
class _Run:
    """One run's reports, and the policy by which a stage is measured and may fail."""

    fail_open: bool
    caller: Caller | None = None
    reports: list[StageReport] = field(default_factory=list)
    last_failure: Exception | None = None

    def propose(self, source: Source[Query], query: Query) -> Candidates | None:
        return self._attempt(source.name, lambda: source.propose(query), source.fail_open)

    def at_least_one(self, parts: list[Candidates | None]) -> list[Candidates]:
        proposals = [part for part in parts if part is not None]
        if not proposals and self.last_failure is not None:
            raise self.last_failure
        return proposals

    def filtered(self, stage: Filter[Query], query: Query, candidates: Candidates) -> Candidates:
        def work() -> Candidates:
            kept = stage.keep(query, candidates)
            if kept.shape != (len(candidates),) or kept.dtype != np.bool_:
                raise StageError(
                    f"filter {stage.name} gave {kept.dtype}{list(kept.shape)} "
                    f"for {len(candidates)} candidates"
                )
            return candidates.take(kept)

        return self._measure(stage.name, work)

    def scored(self, stage: Scorer[Query], query: Query, candidates: Candidates) -> Candidates:
        def work() -> Candidates:
            columns = stage.score(query, candidates)
            if columns.keys() != stage.columns.keys():
                raise StageError(f"scorer {stage.name} gave {list(columns)}")
            return candidates.with_scores(columns)

        scored = self._attempt(stage.name, work, stage.fail_open)
        if scored is not None:
            return scored
        return candidates.with_scores(
            {
                name: np.full(len(candidates), neutral, np.float32)
                for name, neutral in stage.columns.items()
            }
        )

    def selected(self, stage: Selector[Query], query: Query, candidates: Candidates) -> Candidates:
        return self._measure(stage.name, lambda: stage.select(query, candidates))

    def affected(self, stage: SideEffect[Query], query: Query, selected: Candidates) -> None:
        def work() -> Candidates:
            stage.run(query, selected)
            return selected

        self._attempt(stage.name, work, fail_open=True)

    def _attempt(
        self, name: str, work: Callable[[], Candidates], fail_open: bool
    ) -> Candidates | None:
        """What `work` gave; None where it failed and both the stage and the run fail open."""
        if not (fail_open and self.fail_open):
            return self._measure(name, work)
        start = time.perf_counter()
        try:
            return self._measure(name, work)
        except CallerGoneError:
            raise
        except Exception as error:
            # The declared policy: answer without the stage, and hide nothing. The stack is
            # logged, and the answer itself says that the stage is missing.
            log.exception("stage failed; left out of the answer", stage=name)
            self.last_failure = error
            failure = f"{type(error).__name__}: {error}"
            self.reports.append(StageReport(name, time.perf_counter() - start, 0, failure))
            return None

    def _measure(self, name: str, work: Callable[[], Candidates]) -> Candidates:
        if self.caller is not None:
            self.caller.check()
        start = time.perf_counter()
        result = work()
        self.reports.append(StageReport(name, time.perf_counter() - start, len(result)))
        return result
