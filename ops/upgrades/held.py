"""What a deployment holds: something of a format, where it is, and whether this build reads it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from vireo.ops.upgrades.formats import Build


class Held(BaseModel):
    """One document, token or message that another build may have written."""

    model_config = ConfigDict(frozen=True)

    where: str
    format: str
    version: str = ""
    fields: tuple[str, ...] = ()
    problem: str = ""
    """Why this build can't read it, by its own reader; empty if it can."""


class Part(BaseModel):
    """One part of a deployment."""

    model_config = ConfigDict(frozen=True)

    name: str
    held: tuple[Held, ...] = ()
    away: str = ""
    """Why it couldn't be asked; empty if it could."""


class Verdict(BaseModel):
    """Whether two builds read what is held."""

    model_config = ConfigDict(frozen=True)

    part: str
    where: str
    format: str
    problem: str = ""
    """Why this build can't read it; empty if it can."""
    ignored: tuple[str, ...] = ()
    """Fields that this build doesn't know and ignores: a newer one wrote them."""
    other_problem: str = ""
    """Why the other build can't."""
    effect: str = ""
    """What happens if it can't be read."""


def verdicts(parts: tuple[Part, ...], this: Build, other: Build) -> list[Verdict]:
    """Return whether two builds read what is held."""
    return [_verdict(part.name, each, this, other) for part in parts for each in part.held]


def _verdict(part: str, held: Held, this: Build, other: Build) -> Verdict:
    own, theirs = this.format(held.format), other.format(held.format)
    problem, ignored, effect = held.problem, list[str](), ""
    if own is not None:
        problem = problem or "; ".join(own.problems(held.version, held.fields))
        ignored = [name for name in held.fields if name not in own.fields]
        effect = own.effect
    other_problem = "; ".join(theirs.problems(held.version, held.fields)) if theirs else ""
    return Verdict(
        part=part,
        where=held.where,
        format=held.format,
        problem=problem,
        ignored=() if problem else tuple(ignored),
        other_problem=other_problem,
        effect=effect if problem or other_problem else "",
    )


def parsed_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; empty if the bytes are none: its own reader says why."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
