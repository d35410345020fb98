"""What a case finds, and how its answers are judged."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vireo.v1.viewer_pb2 import Degradation

from bench.load import PAGE, Answer, SteadyLoad

_NAMES: Mapping[int, str] = {
    number: name.removeprefix("DEGRADATION_").lower() for name, number in Degradation.items()
}
_UNREAD = frozenset({"features_missing", "features_stale"})
"""What has been watched may then be unknown."""
_MAX_KINDS = 3
"""Of failures that a note lists."""
_LATE = 0.2
"""Seconds by which the load may be late without a word about it."""
_POLL = 0.1
_FULL_SECONDS = 2.0
"""For so long all answers must have been full."""


@dataclass(frozen=True)
class CaseResult:
    """One line of the table."""

    case: int
    requests: int
    failed: int
    """Requests without a right answer, those aside that the case states to be lost."""
    degraded: int
    """Answers that say that they are less than full."""
    holds: bool | None
    """Whether all that is stated holds; None if the case can't be run here."""
    note: str
    """What doesn't hold, why it wasn't run, or what was measured."""


def degradations(answer: Answer) -> frozenset[str]:
    """Return in which ways an answer says to be less than full, "ranking_skipped" for example."""
    return frozenset(_NAMES[number] for number in answer.degradations)


@dataclass(frozen=True)
class Judge:
    """Tells right answers from wrong ones."""

    watched: Mapping[str, frozenset[str]]
    """The video ids that each viewer has watched."""

    def fault(self, answer: Answer) -> str:
        """Return what is wrong with an answer, or why there is none; empty if it is right."""
        if answer.failure:
            return answer.failure
        if len(answer.items) != PAGE:
            return f"a slate of {len(answer.items)} videos"
        if len(set(answer.items)) != PAGE or not all(answer.items):
            return "a slate with a video twice or without an id"
        if not all(map(math.isfinite, answer.scores)):
            return "a score that isn't finite"
        seen = self.watched.get(answer.viewer_id, frozenset())
        if not degradations(answer) & _UNREAD and seen.intersection(answer.items):
            return "a video that the viewer has watched"
        return ""

    def full(self, answer: Answer) -> bool:
        """Return whether an answer is right and undegraded."""
        return not answer.degradations and not self.fault(answer)


class Findings:
    """Gathers what a case finds."""

    def __init__(
        self,
        case: int,
        judge: Judge,
        log: Path,
        patience: float = 60.0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin without any.

        Args:
            case: its number.
            judge: of its answers.
            log: file that lists failures.
            patience: seconds after which nothing is waited for any longer.
            tell: shows progress.
        """
        self._case, self.judge, self._log = case, judge, log
        self._patience, self.tell = patience, tell
        self._broken: list[str] = []
        self._notes: list[str] = []

    def must(self, holds: bool, otherwise: str) -> None:
        """Have the case fail unless `holds`, for the reason given."""
        if not holds:
            self._broken.append(otherwise)

    def note(self, text: str) -> None:
        """Add what was measured, and show it."""
        self._notes.append(text)
        self.tell(text)

    async def until(
        self,
        condition: Callable[[], Awaitable[bool]],
        otherwise: str = "",
        patience: float | None = None,
    ) -> float:
        """Return the seconds until `condition` held; infinite if patience ran out.

        Args:
            condition: asked over and over.
            otherwise: for this reason the case fails then, unless it is empty.
            patience: seconds, instead of the case's.
        """
        started = time.monotonic()
        while not await condition():
            if time.monotonic() - started > (self._patience if patience is None else patience):
                self.must(not otherwise, otherwise)
                return math.inf
            await asyncio.sleep(_POLL)
        return time.monotonic() - started

    async def until_full(self, load: SteadyLoad, since: float) -> float:
        """Return the seconds from `since` until the last answer left that wasn't full.

        0 if none did. It is known once full answers alone have come for two seconds; infinite if
        patience ran out. Times are `time.monotonic`'s.
        """

        def last() -> float:
            answers = (each for each in load.answers if each.at >= since)
            return max((each.at for each in answers if not self.judge.full(each)), default=since)

        async def full_of_late() -> bool:
            return time.monotonic() - last() > _FULL_SECONDS and load.answers[-1].at > last()

        took = await self.until(full_of_late)
        return took if math.isinf(took) else last() - since

    def result(self, *loads: SteadyLoad, lost: Sequence[str] = ()) -> CaseResult:
        """Return the case's line.

        Args:
            loads: all of its requests.
            lost: status codes that may be answered; any other failure breaks the case.
        """
        answers = [answer for load in loads for answer in load.answers]
        faults = [(answer, fault) for answer in answers if (fault := self.judge.fault(answer))]
        failed = [(answer, fault) for answer, fault in faults if fault.split(":")[0] not in lost]
        self._show(failed)
        kinds = Counter(fault for _, fault in failed).most_common(_MAX_KINDS)
        listed = ", ".join(f"{count} times {fault}" for fault, count in kinds)
        self.must(not failed, f"failed: {listed}")
        self.must(bool(answers), "nothing was asked")
        late = max((seconds for load in loads for seconds in load.departures), default=0.0)
        if late > _LATE:
            self._notes.append(f"the load itself was up to {late:.1f} s late")
        return CaseResult(
            case=self._case,
            requests=len(answers),
            failed=len(failed),
            degraded=sum(bool(answer.degradations) for answer in answers),
            holds=not self._broken,
            note="; ".join([*self._broken, *self._notes]),
        )

    def skipped(self, why: str) -> CaseResult:
        """Return the line of a case that can't be run here."""
        return CaseResult(self._case, 0, 0, 0, None, f"skipped: {why}")

    def _show(self, failed: Sequence[tuple[Answer, str]]) -> None:
        """List every failure in the log: when it left, what it took, and what was wrong."""
        with self._log.open("a") as file:
            for answer, fault in failed:
                left = datetime.now(UTC) - timedelta(seconds=time.monotonic() - answer.at)
                words = {"case": self._case, "left": left.isoformat(), "seconds": answer.seconds}
                file.write(json.dumps({**words, "viewer": answer.viewer_id, "fault": fault}) + "\n")
