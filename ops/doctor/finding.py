"""A finding: a condition that is there, why it is believed, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vireo.ops.doctor.conditions import Level, conditions

_RUNBOOKS = "docs/runbooks"

MAX_EVIDENCE = 6
"""Maximum lines of evidence of a finding; a large deployment would fill the screen."""


@dataclass(frozen=True)
class Finding:
    """One cause."""

    cause: str
    level: Level
    title: str
    """What is wrong, a sentence without its full stop."""
    evidence: tuple[str, ...]
    """What was seen, the strongest first."""
    advice: str
    """What to do."""
    alert: str = ""
    """The alert that fires for it; empty if none does."""
    since: float = 0.0
    """Seconds since it was seen last, if it may be over; 0 if it lasts."""
    follows_from: str = ""
    """Another finding's cause that explains this one; empty if none does."""

    @property
    def runbook(self) -> str:
        """Path of the alert's page; empty if there is none."""
        return f"{_RUNBOOKS}/{self.alert}.md" if self.alert else ""


def found(
    cause: str, evidence: Iterable[str], variant: str = "", since: float = 0.0, **words: str
) -> Finding:
    """Return the finding of a condition.

    Args:
        cause: the condition's.
        evidence: what was seen; of many lines the first, and a count.
        variant: name of the case in which it is; empty for the usual one.
        since: seconds since it was seen last; 0 if it lasts.
        words: for the title.
    """
    condition = conditions()[cause].in_case(variant)
    title = condition.title.format(**words)
    return Finding(
        cause, condition.level, title, _shown(evidence), condition.fix, condition.alert, since
    )


def _shown(evidence: Iterable[str]) -> tuple[str, ...]:
    """Return evidence without repetitions, and of many the first lines and a count."""
    lines = list(dict.fromkeys(evidence))
    if len(lines) <= MAX_EVIDENCE:
        return tuple(lines)
    kept = lines[: MAX_EVIDENCE - 1]
    return (*kept, f"and {len(lines) - len(kept)} more like these")


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: the first few, and how many more there are."""
    many = list(dict.fromkeys(names))
    few = many[:3]
    return ", ".join(few) + (f" and {len(many) - len(few)} more" if len(many) > len(few) else "")


def ago(seconds: float) -> str:
    """Return a length of time for a sentence."""
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
