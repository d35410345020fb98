"""The table of conditions: what may be wrong, the alert on it, its cause and its fix.

It lies in `deploy/observability/conditions`, a file for each file of rules. Rules of Prometheus and
runbooks are made from it (`python -m docs.generate`); doctor and benches read it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

FOLDER = Path(__file__).parents[2] / "deploy" / "observability" / "conditions"

Level = Literal["failing", "risk", "note"]
"""Something fails now; it soon will, or a safeguard is gone; it is over, or was meant."""
LEVELS: tuple[Level, ...] = ("failing", "risk", "note")


class Fault(NamedTuple):
    """A fault that proves a condition: doctor names its cause first, and an alert fires."""

    case: int
    """Number of the chaos case."""
    title: str
    alert: str
    """What must fire; empty if nothing may."""


@dataclass(frozen=True)
class Condition:
    """One cause that doctor names."""

    cause: str
    """A name for programs, for example "log-down"."""
    order: int
    """Place among the findings of its level: what explains others comes before them."""
    level: Level
    title: str
    """What is wrong, a sentence without its full stop; words in braces are filled in."""
    fix: str
    """What to do."""
    alert: str = ""
    """The alert that fires for it; empty if none does."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What differs in some cases, by their names."""
    explains: frozenset[str] = frozenset()
    """Causes that this one leads to."""
    faults: tuple[Fault, ...] = ()

    def in_case(self, variant: str) -> Condition:
        """Return what holds in one of its variants; itself if that is empty."""
        return replace(self, **self.variants[variant]) if variant else self


@cache
def tables() -> Mapping[str, Any]:
    """Return the table's files as they are, by name: the groups of rules, and `causes`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = sorted(FOLDER.glob("*.yaml"))
    return {file.stem: yaml.load(file.read_bytes(), loader) for file in files}  # noqa: S506


@cache
def conditions() -> Mapping[str, Condition]:
    """Return every condition by its cause, in order."""
    entries = [(each, rule["alert"]) for rule in alerts() for each in rule.get("causes", ())]
    entries += [(each, "") for table in tables().values() for each in table.get("causes", ())]
    found = sorted((_condition(*each) for each in entries), key=lambda each: each.order)
    return {each.cause: each for each in found}


def by_fault() -> Mapping[str, tuple[str, str]]:
    """Return the alert that a fault must fire, empty for none, and its cause, by its title."""
    return {
        fault.title: (fault.alert, each.cause)
        for each in conditions().values()
        for fault in each.faults
    }


def alerts() -> Iterator[Mapping[str, Any]]:
    """Yield each rule that alerts, as the table has it."""
    for table in tables().values():
        for group in table["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


def _condition(document: Mapping[str, Any], alert: str) -> Condition:
    faults = tuple(Fault(**{"alert": alert, **each}) for each in document.get("faults", ()))
    explains = frozenset(document.get("explains", ()))
    return Condition(**{**document, "alert": alert, "explains": explains, "faults": faults})


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


def named(
    cause: str,
    lines: Iterable[tuple[str, str]],
    variant: str = "",
    since: float = 0.0,
    **words: str,
) -> Iterator[Finding]:
    """Yield the finding of a condition whose title names what has it; none without any.

    Args:
        cause: the condition's.
        lines: names of what has it, and what was seen of each; a name may come again.
        variant: as of `found`, and the following likewise.
        since: seconds since it was seen last.
        words: for the title, beside the names.
    """
    if many := list(lines):
        names = listed(name for name, _ in many)
        yield found(cause, (line for _, line in many), variant, since, names=names, **words)


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
