"""A finding: a cause, why it is believed, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["failing", "risk", "note"]
"""Something fails now; it soon will, or a safeguard is gone; it is over, or was meant."""

_RUNBOOKS = "docs/runbooks"

MAX_EVIDENCE = 6
"""Maximum lines of evidence of a finding; a large deployment would fill the screen."""


@dataclass(frozen=True)
class Finding:
    """One cause."""

    cause: str
    """A name for programs, for example "log-down"."""
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


def shown(evidence: Iterable[str]) -> tuple[str, ...]:
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
