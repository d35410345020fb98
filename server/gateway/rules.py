"""The site's rules: what one TOML file declares for all requests, by surface and region."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from pydantic import ValidationError
from vireo.v1 import filter_pb2, rules_pb2
from vireo.v1 import recommendation_pb2 as pb

from server.features.keys import video_key
from server.filters.declared import Declared
from server.filters.expression import BadFilterError, FilterExpression, all_of, decode
from server.gateway.rule_problems import BadRulesError, place_of, reason_of
from server.gateway.rule_tables import (
    ConditionTable,
    FilterTable,
    RuleTable,
    RuleTables,
    normal_region,
)
from server.releases.fields import shown

MAX_BYTES = 1 << 20
"""Maximum bytes of a file."""
MAX_ACTIVE = {"filters": 64, "boosts": 64, "pins": 64, "caps": 16}
"""Maximum rules of a kind that apply to one slate."""
MAX_REGIONS = 1_000
"""Maximum regions that a file names: the rules of each are prepared when the file is read."""
MAX_MESSAGE_BYTES = 64 << 10
"""Maximum bytes of what the rules of one slate add to a call of a pod."""
_KINDS = {
    "filters": pb.RULE_KIND_FILTER,
    "boosts": pb.RULE_KIND_BOOST,
    "pins": pb.RULE_KIND_PIN,
    "caps": pb.RULE_KIND_CAP,
    "new_videos": pb.RULE_KIND_NEW_SHARE,
}
_ELSEWHERE = None
"""Stands for every region that no rule names."""

Rule = TypeVar("Rule", bound=RuleTable)


@dataclass(frozen=True)
class ActiveRules:
    """The rules that apply to one slate."""

    message: rules_pb2.SlateRules
    """What they ask of the pods."""
    filter: FilterExpression | None
    """What all its filters say."""
    applied: Sequence[tuple[str, pb.RuleKind.ValueType]]
    """Name and kind of each, in the order of the message."""
    pinned: Mapping[int, str]
    """Id of the video that each position is for, from 0."""


class SiteRules:
    """The rules of one file."""

    def __init__(self, tables: RuleTables) -> None:
        """Prepare the rules of every surface and region.

        Raises:
            BadRulesError: a filter can't be met, a name occurs twice, two pins are for the same
                position or video, too many rules apply to one slate, or the file names too many
                regions.
        """
        self._tables = tables
        problems = [*_repeated_names(tables), *_too_many_regions(tables)]
        self._named = [(kind, rule) for kind in _KINDS for rule in getattr(tables, kind)]
        self._expressions = {
            rule.name: expression
            for rule, expression in _expressions(tables, _used(tables), problems)
        }
        if problems:
            raise BadRulesError(problems)
        named = {region for _, rule in self._named for region in rule.regions or ()}
        self._regions = frozenset(named)
        regions: tuple[str | None, ...] = (*sorted(named), _ELSEWHERE)
        self._active: dict[tuple[str, str | None, bool], ActiveRules | None] = {}
        for surface, region in product(("home", "up_next"), regions):
            where = f"on {surface}" + (f" in {region or 'no region'}" if region is not None else "")
            problems += self._crowded(surface, region, where)
            for first in (True, False):
                self._active[surface, region, first] = self._of(surface, region, first)
            active = self._active[surface, region, True]
            if active is not None and active.message.ByteSize() > MAX_MESSAGE_BYTES:
                text = f"the rules {where} need {active.message.ByteSize():,} bytes in each call"
                problems.append(f"{text}, more than {MAX_MESSAGE_BYTES:,}")
        if problems:
            raise BadRulesError([*dict.fromkeys(problems)])

    def __len__(self) -> int:
        return len(self._named)

    def active(self, *, up_next: bool, region: str, first_page: bool) -> ActiveRules | None:
        """Return the rules for a slate; None if none applies.

        Args:
            up_next: whether it follows a video.
            region: the request's; empty if unknown.
            first_page: whether it is no further page: only the first has pinned videos.
        """
        region = normal_region(region)
        known = region if region in self._regions else _ELSEWHERE
        return self._active["up_next" if up_next else "home", known, first_page]

    def check(self, declared: Declared | None) -> None:
        """Check the rules against the attributes of a release.

        Raises:
            BadRulesError: they name an attribute that it doesn't declare, or compare labels as
                numbers or numbers as labels.
        """
        if declared is None:
            if self._expressions or self._tables.caps:
                raise BadRulesError(["the release that is served declares no attributes"])
            return
        problems: list[str] = []
        for _ in _expressions(self._tables, declared, problems):
            pass
        for number, cap in enumerate(self._tables.caps):
            if cap.attribute not in declared.labels:
                text = f"the release has no labels {cap.attribute!r}"
                text += f" but {', '.join(declared.labels)}"
                problems.append(f"{place_of(self._tables, ('caps', number, 'attribute'))}: {text}")
        if problems:
            raise BadRulesError(problems)

    def _of(self, surface: str, region: str | None, first: bool) -> ActiveRules | None:
        tables = self._tables
        message = rules_pb2.SlateRules()
        filters = _applying(tables.filters, surface, region)
        boosts = _applying(tables.boosts, surface, region)
        pins = sorted(_applying(tables.pins, surface, region), key=lambda pin: pin.position)
        pins = pins if first else []
        caps = _applying(tables.caps, surface, region)
        shares = _applying(tables.new_videos, surface, region)
        for rule in filters:
            message.filters.append(_message(rule))
        for boost in boosts:
            message.boosts.add(filter=_message(boost), factor=boost.factor)
        for pin in pins:
            message.pins.add(key=video_key(pin.video_id), position=pin.position)
        for cap in caps:
            message.caps.add(attribute=cap.attribute, values=cap.values, max=cap.max)
        if shares:
            message.new_share = max(rule.share for rule in shares)
        ordered: tuple[Sequence[RuleTable], ...] = (filters, boosts, pins, caps, shares)
        kinds = zip(_KINDS.values(), ordered, strict=True)
        applied = [(rule.name, kind) for kind, rules in kinds for rule in rules]
        if not applied:
            return None
        expressions = [self._expressions[rule.name] for rule in filters]
        return ActiveRules(
            message,
            all_of(expressions) if expressions else None,
            applied,
            {pin.position - 1: pin.video_id for pin in pins},
        )

    def _crowded(self, surface: str, region: str | None, where: str) -> Iterator[str]:
        """Yield what is too much of the rules of one slate."""
        for kind, most in MAX_ACTIVE.items():
            count = len(_applying(getattr(self._tables, kind), surface, region))
            if count > most:
                yield f"[[{kind}]]: {count} apply {where}, more than {most}"
        for key in ("position", "video_id"):
            before: dict[Any, str] = {}
            for number, pin in enumerate(self._tables.pins):
                if _applies(pin, surface, region):
                    other = before.setdefault(getattr(pin, key), pin.name)
                    if other != pin.name:
                        place = place_of(self._tables, ("pins", number, key))
                        yield f"{place}: is that of {shown(other)} {where}"


def parse_rules(text: bytes) -> SiteRules:
    """Return the rules of a file.

    Raises:
        BadRulesError: it isn't TOML, a table or key is unknown or its value out of bounds, or what
            `SiteRules` refuses.
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
        tables = RuleTables.model_validate(document)
    except ValidationError as error:
        raise BadRulesError(
            [
                f"{place_of(document, each['loc'])}: {reason_of(each)}"
                for each in error.errors(include_url=False)
            ]
        ) from error
    return SiteRules(tables)


def _applies(rule: RuleTable, surface: str, region: str | None) -> bool:
    return surface in rule.surfaces and (rule.regions is None or region in rule.regions)


def _applying(rules: Sequence[Rule], surface: str, region: str | None) -> list[Rule]:
    return [rule for rule in rules if _applies(rule, surface, region)]


def _message(table: FilterTable) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        conditions=[
            filter_pb2.Condition(**each.model_dump(exclude_none=True)) for each in table.conditions
        ],
        any=[_message(each) for each in table.any],
        none=[_message(each) for each in table.none],
    )


def _expressions(
    tables: RuleTables, declared: Declared, problems: list[str]
) -> Iterator[tuple[RuleTable, FilterExpression]]:
    """Yield each filter and boost with what its filter says; add to `problems` what is wrong."""
    for kind in ("filters", "boosts"):
        for number, rule in enumerate(getattr(tables, kind)):
            try:
                yield rule, decode(_message(rule), "", declared)
            except BadFilterError as error:
                place = place_of(tables, (kind, number))
                for field, text in error.violations:
                    key = field.removeprefix(".")
                    problems.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")


def _used(tables: RuleTables) -> Declared:
    """Return the attributes of all filters, as their conditions use them."""
    labels, numbers = {*Declared().labels}, {*Declared().numbers}
    for each in _conditions((*tables.filters, *tables.boosts)):
        if each.attribute not in labels | numbers:
            compared = each.any_of or each.all_of or each.none_of
            (labels if compared else numbers).add(each.attribute)
    return Declared(tuple(sorted(labels)), tuple(sorted(numbers)))


def _conditions(tables: Sequence[FilterTable]) -> Iterator[ConditionTable]:
    for table in tables:
        yield from table.conditions
        yield from _conditions((*table.any, *table.none))


def _repeated_names(tables: RuleTables) -> Iterator[str]:
    before: dict[str, str] = {}
    for kind in _KINDS:
        for number, rule in enumerate(getattr(tables, kind)):
            place = place_of(tables, (kind, number, "name"))
            if rule.name in before:
                yield f"{place}: is that of {before[rule.name]} too"
            before.setdefault(rule.name, f"[[{kind}]] number {number + 1}")


def _too_many_regions(tables: RuleTables) -> Iterator[str]:
    """Yield the place of the region that is one too many, if there is one."""
    named: set[str] = set()
    for kind in _KINDS:
        for number, rule in enumerate(getattr(tables, kind)):
            for place, region in enumerate(rule.regions or ()):
                named.add(region)
                if len(named) > MAX_REGIONS:
                    where = place_of(tables, (kind, number, "regions", place))
                    yield f"{where}: the rules name more than {MAX_REGIONS:,} regions"
                    return
