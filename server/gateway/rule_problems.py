"""What is wrong with a file of rules, and where in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vireo.server.errors import VireoError
from vireo.server.releases.fields import shown

_MAX_PROBLEMS = 20


class BadRulesError(VireoError):
    """Rules that can't be used; `problems` has a line each, with its table and key."""

    def __init__(self, problems: Sequence[str]) -> None:
        """List what is wrong, the first so many."""
        more = len(problems) - _MAX_PROBLEMS
        self.problems = [*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        super().__init__("\n".join(self.problems))


def place_of(document: Any, path: Sequence[int | str]) -> str:
    """Return where in a file something is: its table, the rule's number and name, and the key."""
    kind, *rest = path
    if not rest or not isinstance(rest[0], int):
        return ": ".join([f"[[{shown(str(kind))}]]", *map(str, rest)])
    number, keys = rest[0], rest[1:]
    rules: Any = document[kind] if isinstance(document, Mapping) else getattr(document, str(kind))
    rule = rules[number]
    name = rule.get("name") if isinstance(rule, Mapping) else getattr(rule, "name", None)
    known = f" ({shown(name)})" if isinstance(name, str) else ""
    key = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in keys)
    place = f"[[{kind}]] number {number + 1}{known}"
    return f"{place}: {shown(key.removeprefix('.'))}" if key else place


def reason_of(error: Any) -> str:
    """Return what is wrong with a key, in this project's words where pydantic has others."""
    match error["type"]:
        case "extra_forbidden":
            return "there is no such key" if len(error["loc"]) > 1 else "there is no such table"
        case "missing":
            return "is missing"
        case _:
            return shown(str(error["msg"]).removeprefix("Value error, "))
