"""The site's rules: what one TOML file declares for all requests, by surface and region."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from vireo.server.features.keys import video_key
from vireo.server.gateway.rule_tables import (
    MAX_RULES,
    BadRulesError,
    BoostRule,
    ConditionTable,
    FilterRule,
    FilterTable,
    RuleTable,
    RuleTables,
    normal_region,
    place_of,
    reason_of,
)
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import (
    BadFilterError,
    FilterExpression,
    all_of,
    decode,
)
from vireo.server.releases.manifest import shown
from vireo.v1 import filter_pb2, rules_pb2
from vireo.v1 import recommendation_pb2 as pb

MAX_BYTES = 1 << 20
"""Maximum bytes of a file."""
MAX_ACTIVE = {"filters": 64, "boosts": 64, "pins": 64, "caps": 16}
"""Maximum rules of a kind that apply to one slate."""
MAX_REGIONS = 1_000
"""Maximum regions that a file names: the rules of each are checked when the file is read."""
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
        filters: tuple[FilterRule | BoostRule, ...] = (*tables.filters, *tables.boosts)
        self._messages = {rule.name: _message(rule) for rule in filters}
        self._expressions = {
            rule.name: expression for rule, expression in self._decoded(_used(tables), problems)
        }
        if problems:
            raise BadRulesError(problems)
        self._numbers: defaultdict[tuple[str, str, str | None], list[int]] = defaultdict(list)
        """Numbers of the rules of a kind on a surface that name a region, or none."""
        named: set[str] = set()
        for kind in _KINDS:
            for number, rule in enumerate(getattr(tables, kind)):
                named.update(rule.regions or ())
                for key in product({*rule.surfaces}, {*(rule.regions or (_ELSEWHERE,))}):
                    self._numbers[kind, *key].append(number)
        self._regions = frozenset(named)
        self._active: dict[tuple[str, str | None, bool], ActiveRules | None] = {}
        sizes = {
            kind: [self._of({kind: [rule]}).ByteSize() for rule in getattr(tables, kind)]
            for kind in MAX_ACTIVE
        }
        for place in product(("home", "up_next"), (*sorted(named), _ELSEWHERE)):
            problems += self._crowded(*place, sizes)
            if len(problems) > MAX_RULES:
                break  # of so many, few are shown
        if problems:
            raise BadRulesError([*dict.fromkeys(problems)])

    def __len__(self) -> int:
        return sum(len(getattr(self._tables, kind)) for kind in _KINDS)

    def active(self, *, up_next: bool, region: str, first_page: bool = True) -> ActiveRules | None:
        """Return the rules for a slate; None if none applies.

        Args:
            up_next: whether it follows a video.
            region: the request's; empty if unknown.
            first_page: whether it is no further page: only the first has pinned videos.
        """
        region = normal_region(region)
        known = region if region in self._regions else _ELSEWHERE
        asked = "up_next" if up_next else "home", known, first_page
        if asked not in self._active:
            self._active[asked] = self._prepared(*asked)
        return self._active[asked]

    def check(self, declared: Declared) -> None:
        """Check the rules against the attributes of a release.

        Raises:
            BadRulesError: they name an attribute that it doesn't declare, or compare labels as
                numbers or numbers as labels.
        """
        problems: list[str] = []
        for _ in self._decoded(declared, problems):
            pass
        for number, cap in enumerate(self._tables.caps):
            if cap.attribute not in declared.labels:
                text = f"the release has no labels {cap.attribute!r}"
                text += f" but {', '.join(declared.labels)}"
                problems.append(f"{place_of(self._tables, ('caps', number, 'attribute'))}: {text}")
        if problems:
            raise BadRulesError(problems)

    def _prepared(self, surface: str, region: str | None, first: bool) -> ActiveRules | None:
        rules = {
            kind: [getattr(self._tables, kind)[n] for n in self._places(kind, surface, region)]
            for kind in _KINDS
        }
        rules["pins"] = sorted(rules["pins"], key=lambda pin: pin.position) if first else []
        applied = [(rule.name, _KINDS[kind]) for kind in _KINDS for rule in rules[kind]]
        if not applied:
            return None
        expressions = [self._expressions[rule.name] for rule in rules["filters"]]
        return ActiveRules(
            self._of(rules),
            all_of(expressions) if expressions else None,
            applied,
            {pin.position - 1: pin.video_id for pin in rules["pins"]},
        )

    def _of(self, rules: Mapping[str, Sequence[Any]]) -> rules_pb2.SlateRules:
        """Return what some rules of each kind ask of the pods."""
        message = rules_pb2.SlateRules()
        for rule in rules.get("filters", ()):
            message.filters.append(self._messages[rule.name])
        for rule in rules.get("boosts", ()):
            message.boosts.add(filter=self._messages[rule.name], factor=rule.factor)
        for rule in rules.get("pins", ()):
            message.pins.add(key=video_key(rule.video_id), position=rule.position)
        for rule in rules.get("caps", ()):
            message.caps.add(attribute=rule.attribute, values=rule.values, max=rule.max)
        if shares := rules.get("new_videos"):
            message.new_share = max(rule.share for rule in shares)
        return message

    def _places(self, kind: str, surface: str, region: str | None) -> list[int]:
        """Return the numbers of the rules of a kind that apply to a slate, ascending."""
        everywhere = self._numbers.get((kind, surface, _ELSEWHERE), [])
        own = self._numbers.get((kind, surface, region), []) if region is not None else []
        return sorted([*everywhere, *own]) if own else everywhere

    def _crowded(
        self, surface: str, region: str | None, sizes: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        """Yield what is too much of the rules of one slate; `sizes` are bytes of each of a kind."""
        where = f"on {surface}" + (f" in {region or 'no region'}" if region is not None else "")
        numbers = {kind: self._places(kind, surface, region) for kind in MAX_ACTIVE}
        crowded = [kind for kind, most in MAX_ACTIVE.items() if len(numbers[kind]) > most]
        for kind in crowded:
            most = MAX_ACTIVE[kind]
            yield f"[[{kind}]]: {len(numbers[kind])} apply {where}, more than {most}"
        if crowded:
            return
        size = sum(sizes[kind][number] for kind in MAX_ACTIVE for number in numbers[kind])
        if size > MAX_MESSAGE_BYTES:
            text = f"the rules {where} need {size:,} bytes in each call"
            yield f"{text}, more than {MAX_MESSAGE_BYTES:,}"
        for key in ("position", "video_id"):
            before: dict[Any, str] = {}
            for number in numbers["pins"]:
                pin = self._tables.pins[number]
                other = before.setdefault(getattr(pin, key), pin.name)
                if other != pin.name:
                    place = place_of(self._tables, ("pins", number, key))
                    yield f"{place}: is that of {shown(other)} {where}"

    def _decoded(
        self, declared: Declared, problems: list[str]
    ) -> Iterator[tuple[RuleTable, FilterExpression]]:
        """Yield each filter and boost with what it says; add to `problems` what is wrong."""
        for kind in ("filters", "boosts"):
            for number, rule in enumerate(getattr(self._tables, kind)):
                try:
                    yield rule, decode(self._messages[rule.name], "", declared)
                except BadFilterError as error:
                    place = place_of(self._tables, (kind, number))
                    for field, text in error.violations:
                        key = field.removeprefix(".")
                        problems.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")


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


def _message(table: FilterTable) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        conditions=[
            filter_pb2.Condition(**each.model_dump(exclude_none=True)) for each in table.conditions
        ],
        any=[_message(each) for each in table.any],
        none=[_message(each) for each in table.none],
    )


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
