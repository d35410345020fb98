"""How much of each fault there is, the judgement of answers, and the findings of a case."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.load import PAGE, Answer, SteadyLoad
from bench.rows import Plan
from vireo.v1.viewer_pb2 import Degradation

UNREAD = frozenset({"features_missing", "features_stale"})
"""Degradations under which a gateway may not know what has been watched."""
_MAX_KINDS = 3
"""Kinds of failures that a note lists."""
_MAX_LATE = 0.2
"""Seconds by which the load may leave late without a note."""
_POLL = 0.1
_FULL_SECONDS = 2.0
"""Seconds of full answers after which an outage counts as over."""


@dataclass(frozen=True)
class ChaosPlan(Plan):
    """How much of each fault there is, and the time limits. All times in seconds."""

    rate: float = 80.0
    """Requests a second of the steady load, at most 40% of what the stack sustains."""
    deadline: float = 2.0
    viewers: int = 200
    event_rate: float = 200.0
    """Events a second."""
    quiet: float = 4.0
    """Load before a fault, to compare with."""
    settle: float = 2.0
    """Load after a fault."""
    patience: float = 60.0
    """Maximum wait for anything; if no times are judged, anything may take as long."""

    def within(self, stated: float) -> float:
        """Return the maximum seconds for what is stated to take `stated`."""
        return self.of(stated, self.patience)


SHORT = ChaosPlan(
    rate=15.0, deadline=8.0, viewers=20, quiet=1.0, settle=1.0, timed=False, patience=180.0
)
"""For CI: each fault once and briefly; no time is judged."""


@dataclass(frozen=True)
class CaseResult:
    """One line of the table."""

    case: int
    requests: int
    failed: int
    """Requests without a right answer, except those that the case allows to be lost."""
    degraded: int
    holds: bool | None
    """Whether all that is stated holds; None if the case can't be run here."""
    note: str
    """What doesn't hold, why it wasn't run, or what was measured."""


def degradations(answer: Answer) -> frozenset[str]:
    """Return the names of an answer's degradations, such as "ranking_skipped"."""
    names = (Degradation.Name(number) for number in answer.degradations)  # type: ignore[arg-type]
    return frozenset(name.removeprefix("DEGRADATION_").lower() for name in names)


@dataclass(frozen=True)
class Judge:
    """Judges answers."""

    watched: Mapping[str, frozenset[str]]
    """Ids of the videos that each viewer has watched."""

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
        if not degradations(answer) & UNREAD and seen.intersection(answer.items):
            return "a video that the viewer has watched"
        return ""

    def full(self, answer: Answer) -> bool:
        """Return whether an answer is right and undegraded."""
        return not answer.degradations and not self.fault(answer)


@dataclass
class Findings:
    """What a case has found so far."""

    case: int
    judge: Judge
    log: Path
    """File that lists failures."""
    patience: float = 60.0
    """Maximum seconds to wait for anything."""
    progress: Callable[[str], None] = print
    _broken: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def must(self, holds: bool, otherwise: str) -> None:
        """Have the case fail unless `holds`, for the reason given."""
        if not holds:
            self._broken.append(otherwise)

    def note(self, text: str) -> None:
        """Add what was measured, and show it."""
        self._notes.append(text)
        self.progress(text)

    async def until(
        self,
        condition: Callable[[], Awaitable[bool]],
        otherwise: str = "",
        patience: float | None = None,
        poll: float = _POLL,
    ) -> float:
        """Return the seconds until `condition` held, polling it; infinity after `patience`.

        The case fails then, for the reason `otherwise`, unless that is empty.
        """
        started = time.monotonic()
        while not await condition():
            if time.monotonic() - started > (self.patience if patience is None else patience):
                self.must(not otherwise, otherwise)
                return math.inf
            await asyncio.sleep(poll)
        return time.monotonic() - started

    async def until_full(self, load: SteadyLoad, since: float) -> float:
        """Return the seconds from `since` until the last request left whose answer wasn't full.

        0 if none did. It is known once only full answers have come for two seconds; infinity after
        `patience`. Times are those of `time.monotonic`.
        """

        def last() -> float:
            answers = (each for each in load.answers if each.at >= since)
            return max((each.at for each in answers if not self.judge.full(each)), default=since)

        async def full_of_late() -> bool:
            return time.monotonic() - last() > _FULL_SECONDS and load.answers[-1].at > last()

        took = await self.until(full_of_late)
        return took if math.isinf(took) else last() - since

    def result(
        self, *loads: SteadyLoad, lost: Sequence[str] = (), answers: Sequence[Answer] = ()
    ) -> CaseResult:
        """Return the case's line, and list its failures in the log.

        Args:
            loads: its open-loop requests.
            lost: status codes that callers may get; any other failure breaks the case.
            answers: those to its other requests.
        """
        answers = [*answers, *(answer for load in loads for answer in load.answers)]
        faults = [(answer, fault) for answer in answers if (fault := self.judge.fault(answer))]
        failed = [(answer, fault) for answer, fault in faults if fault.split(":")[0] not in lost]
        with self.log.open("a") as file:
            for answer, fault in failed:
                left = datetime.now(UTC) - timedelta(seconds=time.monotonic() - answer.at)
                entry = {"case": self.case, "left": left.isoformat(), "seconds": answer.seconds}
                file.write(json.dumps({**entry, "viewer": answer.viewer_id, "fault": fault}) + "\n")
        kinds = Counter(fault for _, fault in failed).most_common(_MAX_KINDS)
        listed = ", ".join(f"{count} times {fault}" for fault, count in kinds)
        self.must(not failed, f"failed: {listed}")
        self.must(bool(answers), "nothing was asked")
        late = max((seconds for load in loads for seconds in load.departures), default=0.0)
        if late > _MAX_LATE:
            self._notes.append(f"the load itself was up to {late:.1f} s late")
        return CaseResult(
            case=self.case,
            requests=len(answers),
            failed=len(failed),
            degraded=sum(bool(answer.degradations) for answer in answers),
            holds=not self._broken,
            note="; ".join([*self._broken, *self._notes]),
        )
