"""The tables of a file of rules, as TOML has them, and where in them something is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vireo.server.columns import MAX_FACTOR, MIN_FACTOR
from vireo.server.errors import VireoError
from vireo.server.recommend.filters.declared import ATTRIBUTE_NAME
from vireo.server.releases.manifest import shown

MAX_BYTES = 1 << 20
"""Maximum bytes of a file."""
MAX_RULES = 1_000
"""Maximum rules of a kind in a file."""
MAX_PAGE_SIZE = 500
MAX_REGION_BYTES = 16
_MAX_PROBLEMS = 20


def _of_bytes(text: str, most: int) -> str:
    if len(text.encode()) > most:
        raise ValueError(f"must have at most {most} bytes")
    return text


_Attribute = Annotated[str, Field(pattern=ATTRIBUTE_NAME)]
_Text = Annotated[str, Field(min_length=1), AfterValidator(lambda text: _of_bytes(text, 128))]
_Number = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE, strict=True)]
_Values = Annotated[tuple[_Text, ...], Field(max_length=64)]
_Region = Annotated[
    str, AfterValidator(lambda text: normal_region(_of_bytes(text, MAX_REGION_BYTES)))
]
_Bound = Annotated[
    float, Field(allow_inf_nan=False, strict=True), BeforeValidator(lambda value: _seconds(value))
]


def normal_region(region: str) -> str:
    """Return a region as it is compared: in upper case, without spaces around it."""
    return region.strip().upper()


def _seconds(value: Any) -> Any:
    """Return a time of TOML in Unix seconds, and anything else as it is."""
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError("must say its zone, for example 2026-01-31T00:00:00Z")
    return value.timestamp()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ConditionTable(_Table):
    """What must be true of one attribute, as the API's Condition."""

    attribute: _Attribute
    any_of: _Values = ()
    all_of: _Values = ()
    none_of: _Values = ()
    min: _Bound | None = None
    max: _Bound | None = None


class FilterTable(_Table):
    """Which videos, as the API's Filter."""

    conditions: Annotated[tuple[ConditionTable, ...], Field(max_length=64)] = ()
    any: Annotated[tuple[FilterTable, ...], Field(max_length=16)] = ()
    none: Annotated[tuple[FilterTable, ...], Field(max_length=16)] = ()


class RuleTable(_Table):
    """What every rule has."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Its name in explanations and errors; no other rule has it."""
    surfaces: Annotated[tuple[Literal["home", "up_next"], ...], Field(min_length=1)] = (
        "home",
        "up_next",
    )
    """Where it applies; similar videos count as up_next."""
    regions: Annotated[tuple[_Region, ...] | None, Field(min_length=1)] = None
    """Where viewers are to whom it applies, "" for requests without a region; None for all."""


class FilterRule(RuleTable, FilterTable):
    """Videos that may be shown; others may not."""


class BoostRule(RuleTable, FilterTable):
    """A factor of the scores of some videos."""

    factor: Annotated[float, Field(ge=MIN_FACTOR, le=MAX_FACTOR, strict=True)]


class PinRule(RuleTable):
    """A video with a position of its own."""

    video_id: _Text
    position: _Number


class CapRule(RuleTable):
    """How many videos with the same label a page may have."""

    attribute: _Attribute
    values: _Values = ()
    """The labels that are counted; all if empty."""
    max: _Number


class NewShareRule(RuleTable):
    """The share of positions that new videos get."""

    share: Annotated[float, Field(ge=0, le=1, strict=True)]


class RuleTables(_Table):
    """A file of rules."""

    filters: Annotated[tuple[FilterRule, ...], Field(max_length=MAX_RULES)] = ()
    boosts: Annotated[tuple[BoostRule, ...], Field(max_length=MAX_RULES)] = ()
    pins: Annotated[tuple[PinRule, ...], Field(max_length=MAX_RULES)] = ()
    caps: Annotated[tuple[CapRule, ...], Field(max_length=MAX_RULES)] = ()
    new_videos: Annotated[tuple[NewShareRule, ...], Field(max_length=MAX_RULES)] = ()


class BadRulesError(VireoError):
    """Rules that can't be used; `problems` has a line each, with its table and key."""

    def __init__(self, problems: Sequence[str]) -> None:
        """List what is wrong, the first so many; one more line isn't worth a line that says so."""
        more = len(problems) - _MAX_PROBLEMS
        self.problems = [*problems]
        if more > 1:
            self.problems[_MAX_PROBLEMS:] = [f"and {more} more"]
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


def parse_tables(text: bytes) -> RuleTables:
    """Return the tables of a file.

    Raises:
        BadRulesError: it is too long or isn't TOML, a table or key is unknown or its value out of
            bounds.
    """
    if len(text) > MAX_BYTES:
        raise BadRulesError([f"has more than {MAX_BYTES:,} bytes"])
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRulesError([f"isn't TOML: {error}"]) from error
    except RecursionError:
        raise BadRulesError(["is nested too deeply"]) from None
    try:
        return RuleTables.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise BadRulesError(
            [f"{place_of(document, each['loc'])}: {_reason_of(each)}" for each in found]
        ) from error


def _reason_of(error: Any) -> str:
    """Return what is wrong with a key, in this project's words where pydantic has others."""
    match error["type"]:
        case "extra_forbidden":
            return "there is no such key" if len(error["loc"]) > 1 else "there is no such table"
        case "missing":
            return "is missing"
        case _:
            return shown(str(error["msg"]).removeprefix("Value error, "))
