"""How many calls of a model a pod has answered, and how long their steps took."""

from __future__ import annotations

import time
from collections import Counter

from inference import open_inference_pb2 as pb

STEPS = ("queue", "compute_input", "compute_infer", "compute_output")
"""The steps of a call in their order, as the protocol names them."""


class Stopwatch:
    """Measures the steps of one call, from its creation on."""

    def __init__(self) -> None:
        """Start the first step."""
        self._started = self._step_started = time.perf_counter_ns()
        self.steps: dict[str, int] = {}
        """Nanoseconds of each step that has ended."""

    def end(self, step: str) -> None:
        """End a step, and start the next one."""
        now = time.perf_counter_ns()
        self.steps[step] = now - self._step_started
        self._step_started = now

    @property
    def total(self) -> int:
        """Nanoseconds since the start."""
        return time.perf_counter_ns() - self._started


class CallStatistics:
    """The calls of a model since the start of the pod. Use it from one event loop."""

    def __init__(self) -> None:
        """Start without calls."""
        self._counts: Counter[str] = Counter()
        self._nanoseconds: Counter[str] = Counter()
        self._last_ended = 0.0

    def add(self, call: Stopwatch, *, succeeded: bool) -> None:
        """Count a call that has ended; its steps only if it succeeded."""
        self._last_ended = time.time()
        self._add("success" if succeeded else "fail", call.total)
        if succeeded:
            for step in STEPS:
                self._add(step, call.steps[step])

    def _add(self, what: str, nanoseconds: int) -> None:
        self._counts[what] += 1
        self._nanoseconds[what] += nanoseconds

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """Return the statistics as those of this model and version."""
        # Also the durations that are always zero: clients read all of them.
        durations = {
            field.name: pb.StatisticDuration(
                count=self._counts[field.name], ns=self._nanoseconds[field.name]
            )
            for field in pb.InferStatistics.DESCRIPTOR.fields
        }
        return pb.ModelStatistics(
            name=name,
            version=version,
            last_inference=round(self._last_ended * 1000),
            inference_count=self._counts["success"],
            execution_count=self._counts["success"],
            inference_stats=pb.InferStatistics(**durations),
        )
