"""What a case found, and how its answers are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vireo.v1.viewer_pb2 import Degradation

from bench.load import PAGE, Answer

_NAMES = {number: name.removeprefix("DEGRADATION_").lower() for name, number in Degradation.items()}
_UNREAD = frozenset({"features_missing", "features_stale"})
"""What has been watched may then be unknown."""


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
    """Whether all that is stated holds; None where the case can't be run here."""
    note: str
    """What doesn't hold, why it wasn't run, or what was measured."""


def degradations(answer: Answer) -> frozenset[str]:
    """In which ways an answer says to be less than full, for example "ranking_skipped"."""
    return frozenset(_NAMES[number] for number in answer.degradations)


@dataclass(frozen=True)
class Judge:
    """Tells right answers from wrong ones."""

    watched: Mapping[str, frozenset[str]]
    """The video ids that each viewer has watched."""

    def fault(self, answer: Answer) -> str:
        """What is wrong with an answer, or why there is none; empty where it is right."""
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
        """Whether an answer is right and undegraded."""
        return not answer.degradations and not self.fault(answer)


class Findings:
    """Gathers what a case finds."""

    def __init__(self, case: int, judge: Judge) -> None:
        """Takes the case's number and who judges its answers."""
        self._case = case
        self._judge = judge
        self._broken: list[str] = []
        self._notes: list[str] = []

    def must(self, holds: bool, otherwise: str) -> None:
        """Has the case fail unless `holds`, for the reason given."""
        if not holds:
            self._broken.append(otherwise)

    def note(self, text: str) -> None:
        """Adds what was measured."""
        self._notes.append(text)

    def result(self, answers: Sequence[Answer], lost: Sequence[str] = ()) -> CaseResult:
        """The case's line.

        Args:
            answers: to all of its requests.
            lost: status codes that may be answered; any other failure breaks the case.
        """
        faults = [fault for answer in answers if (fault := self._judge.fault(answer))]
        failed = [fault for fault in faults if fault.split(":")[0] not in lost]
        self.must(not failed, f"{len(failed)} failed, first: {next(iter(failed), '')}")
        self.must(bool(answers), "nothing was asked")
        return CaseResult(
            case=self._case,
            requests=len(answers),
            failed=len(failed),
            degraded=sum(bool(answer.degradations) for answer in answers),
            holds=not self._broken,
            note="; ".join([*self._broken, *self._notes]),
        )
