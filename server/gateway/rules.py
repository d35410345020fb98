"""The site's rules: what one TOML file declares for all requests, by surface and region."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter, Gauge

from vireo.server.features.keys import video_key
from vireo.server.gateway.rule_tables import (
    MAX_BYTES,
    MAX_RULES,
    BadRulesError,
    BoostRule,
    ConditionTable,
    FilterRule,
    FilterTable,
    RuleTables,
    normal_region,
    parse_tables,
    place_of,
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

log = structlog.get_logger()

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
_POLL_SECONDS = 1.0

VALID = Gauge(
    "vireo_rules_valid",
    "1 if the rules in effect are those of the file and fit the release; 0 while the file is "
    "refused or the release lacks an attribute that a rule names.",
)
RULES = Gauge("vireo_rules", "Number of rules in effect.")
LOADS = Counter(
    "vireo_rules_loads", "Changes of the file of rules, by whether they were taken.", ["result"]
)
TAKEN, REFUSED = LOADS.labels("taken"), LOADS.labels("refused")


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


class _Rule(NamedTuple):
    """A rule, and where in the file it is."""

    kind: str
    number: int
    table: Any


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
        self._rules = [
            _Rule(kind, number, table)
            for kind in _KINDS
            for number, table in enumerate(getattr(tables, kind))
        ]
        filters = [
            each.table for each in self._rules if isinstance(each.table, FilterRule | BoostRule)
        ]
        self._messages = {table.name: _message(table) for table in filters}
        self._regions = {region for each in self._rules for region in each.table.regions or ()}
        problems = [*self._repeated_names()]
        if (named := len(self._regions)) > MAX_REGIONS:
            problems.append(f"the rules name {named:,} regions, more than {MAX_REGIONS:,}")
        self._expressions = self._decoded(_used(filters), problems)
        if problems:
            raise BadRulesError(problems)
        self._of_place: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
        """Places in `_rules` of those on a surface that name a region, or none."""
        for place, (_, _, table) in enumerate(self._rules):
            for key in product({*table.surfaces}, {*(table.regions or (_ELSEWHERE,))}):
                self._of_place[key].append(place)
        self._sizes = [self._message_of([each]).ByteSize() for each in self._rules]
        for surface, region in product(("home", "up_next"), (*sorted(self._regions), _ELSEWHERE)):
            problems += self._crowded(surface, region)
            if len(problems) > MAX_RULES:
                break  # of so many, few are shown
        if problems:
            raise BadRulesError([*dict.fromkeys(problems)])
        self._active: dict[tuple[str, str | None, bool], ActiveRules | None] = {}

    @staticmethod
    def parse(text: bytes) -> SiteRules:
        """Return the rules of a file's content; raise BadRulesError if they can't be used."""
        return SiteRules(parse_tables(text))

    def __len__(self) -> int:
        return len(self._rules)

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
        self._decoded(declared, problems)
        for number, cap in enumerate(self._tables.caps):
            if cap.attribute not in declared.labels:
                text = f"the release has no labels {cap.attribute!r}"
                text += f" but {', '.join(declared.labels)}"
                problems.append(f"{self._place('caps', number, 'attribute')}: {text}")
        if problems:
            raise BadRulesError(problems)

    def _prepared(self, surface: str, region: str | None, first: bool) -> ActiveRules | None:
        kinds = [*_KINDS]
        rules = [self._rules[place] for place in self._places(surface, region)]
        rules = [each for each in rules if first or each.kind != "pins"]
        if not rules:
            return None
        rules.sort(key=lambda each: (kinds.index(each.kind), getattr(each.table, "position", 0)))
        filters = [self._expressions[table.name] for kind, _, table in rules if kind == "filters"]
        return ActiveRules(
            self._message_of(rules),
            all_of(filters) if filters else None,
            [(table.name, _KINDS[kind]) for kind, _, table in rules],
            {table.position - 1: table.video_id for kind, _, table in rules if kind == "pins"},
        )

    def _message_of(self, rules: Iterable[_Rule]) -> rules_pb2.SlateRules:
        """Return what some rules ask of the pods."""
        message = rules_pb2.SlateRules()
        for kind, _, table in rules:
            match kind:
                case "filters":
                    message.filters.append(self._messages[table.name])
                case "boosts":
                    message.boosts.add(filter=self._messages[table.name], factor=table.factor)
                case "pins":
                    message.pins.add(key=video_key(table.video_id), position=table.position)
                case "caps":
                    message.caps.add(attribute=table.attribute, values=table.values, max=table.max)
                case _:
                    message.new_share = max(message.new_share, table.share)
        return message

    def _places(self, surface: str, region: str | None) -> list[int]:
        """Return the places of the rules that apply to a slate, ascending."""
        everywhere = self._of_place.get((surface, _ELSEWHERE), [])
        own = self._of_place.get((surface, region), []) if region is not None else []
        return sorted([*everywhere, *own])

    def _place(self, kind: str, number: int, *keys: str) -> str:
        return place_of(self._tables, (kind, number, *keys))

    def _repeated_names(self) -> Iterator[str]:
        before: dict[str, str] = {}
        for kind, number, table in self._rules:
            if table.name in before:
                yield f"{self._place(kind, number, 'name')}: is that of {before[table.name]} too"
            before.setdefault(table.name, f"[[{kind}]] number {number + 1}")

    def _crowded(self, surface: str, region: str | None) -> Iterator[str]:
        """Yield what is too much of the rules of one slate."""
        where = f"on {surface}" + (f" in {region or 'no region'}" if region is not None else "")
        places = self._places(surface, region)
        counts = Tally(self._rules[place].kind for place in places)
        crowded = [kind for kind, most in MAX_ACTIVE.items() if counts[kind] > most]
        for kind in crowded:
            yield f"[[{kind}]]: {counts[kind]} apply {where}, more than {MAX_ACTIVE[kind]}"
        if crowded:
            return
        size = sum(self._sizes[place] for place in places if self._rules[place].kind in MAX_ACTIVE)
        if size > MAX_MESSAGE_BYTES:
            text = f"the rules {where} need {size:,} bytes in each call"
            yield f"{text}, more than {MAX_MESSAGE_BYTES:,}"
        before: dict[Any, str] = {}
        for kind, number, pin in (self._rules[place] for place in places):
            for key in ("position", "video_id") if kind == "pins" else ():
                other = before.setdefault(getattr(pin, key), pin.name)
                if other != pin.name:
                    yield f"{self._place(kind, number, key)}: is that of {shown(other)} {where}"

    def _decoded(self, declared: Declared, problems: list[str]) -> dict[str, FilterExpression]:
        """Return what each filter and boost says; add to `problems` what is wrong."""
        found = {}
        for kind, number, table in self._rules:
            if not isinstance(table, FilterRule | BoostRule):
                continue
            try:
                found[table.name] = decode(self._messages[table.name], "", declared)
            except BadFilterError as error:
                for field, text in error.violations:
                    key = field.removeprefix(".")
                    place = self._place(kind, number)
                    problems.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")
        return found


def _message(table: FilterTable) -> filter_pb2.Filter:
    parts = set(FilterTable.model_fields)
    return filter_pb2.Filter(**table.model_dump(include=parts, exclude_none=True))


def _used(tables: Sequence[FilterTable]) -> Declared:
    """Return the attributes of all filters, as their conditions use them."""
    labels, numbers = {*Declared().labels}, {*Declared().numbers}
    for each in _conditions(tables):
        if each.attribute not in labels | numbers:
            compared = each.any_of or each.all_of or each.none_of
            (labels if compared else numbers).add(each.attribute)
    return Declared(tuple(sorted(labels)), tuple(sorted(numbers)))


def _conditions(tables: Sequence[FilterTable]) -> Iterator[ConditionTable]:
    for table in tables:
        yield from table.conditions
        yield from _conditions((*table.any, *table.none))


def read_rules(path: Path) -> SiteRules:
    """Return the rules of a file; raise BadRulesError, which names it, if it can't be used."""
    try:
        with path.open("rb") as file:
            return SiteRules.parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise BadRulesError([f"{path}: can't be read: {error.strerror}"]) from error
    except BadRulesError as error:
        raise BadRulesError([f"{path}: {each}" for each in error.problems]) from error


class RulesFile:
    """The rules that are in effect: those of a file, which is followed. Use it from one loop."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BadRulesError: it can't be used: without the rules that a site counts on, nothing is
                served.
        """
        self._path = path
        self._taken = _version(path)
        """Version of the file that is in effect."""
        self._seen: tuple[object, object] = (self._taken, None)
        """Version of the file and release that were checked last."""
        self.rules = read_rules(path)
        self.serving: Callable[[], tuple[str, Declared] | None] = lambda: None
        """Returns id and attributes of the release that is served; None before there is one."""
        self._problem = ""
        """What was wrong then; empty if nothing was."""
        VALID.set(1)
        RULES.set(len(self.rules))

    async def run(self) -> None:
        """Take each new version of the file, until cancelled; a bad one changes nothing."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the file if it has changed and fits the release that is served, if one is."""
        release, version = self.serving(), await asyncio.to_thread(_version, self._path)
        if (version, release) == self._seen:
            return
        self._seen, problem = (version, release), ""
        try:
            rules = await asyncio.to_thread(_read_for, release, self._path)
        except BadRulesError as error:
            problem = str(error)
        else:
            if version != self._taken:
                self.rules, self._taken = rules, version
                TAKEN.inc()
                RULES.set(len(rules))
                log.info("rules changed", file=str(self._path), rules=len(rules))
        if problem and problem != self._problem:
            REFUSED.inc()
            log.error("rules refused", file=str(self._path), reason=problem)
        self._problem = problem
        VALID.set(not problem)


def _read_for(release: tuple[str, Declared] | None, path: Path) -> SiteRules:
    """Return the rules of a file; raise BadRulesError if they can't be used with a release."""
    rules = read_rules(path)
    if release is not None:
        release_id, declared = release
        try:
            rules.check(declared)
        except BadRulesError as error:
            raise BadRulesError([f"release {release_id}: {error}"]) from error
    return rules


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with each version of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
