"""Runs the stages of a chain, and owns what they don't: times, failures and deadlines.

A chain is a function that runs its stages one after another: their data is in memory and a process
has one core, so that running them side by side would only add the cost of handing over.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import TracebackType

import structlog

log = structlog.get_logger()


class CallerGoneError(Exception):
    """Nobody waits for the result any more. Never a failure to answer without."""


class Caller:
    """One call's caller, who waits until the call's deadline."""

    def __init__(self, left: float | None = None) -> None:
        """Start the clock; `left` is the seconds until its deadline, None without one."""
        self._deadline = math.inf if left is None else time.monotonic() + left

    @property
    def gone(self) -> bool:
        """Whether its deadline has passed."""
        return time.monotonic() >= self._deadline

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
