"""The file of the site's rules: read at the start, and again whenever it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.rule_tables import BadRulesError
from vireo.server.gateway.rules import MAX_BYTES, ActiveRules, SiteRules, parse_rules

log = structlog.get_logger()

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


def read_rules(path: Path) -> SiteRules:
    """Return the rules of a file; raise BadRulesError if it can't be used."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadRulesError([f"can't be read: {error.strerror}"]) from error
    return parse_rules(text)


class RulesFile:
    """The rules that are in effect. Use it from one event loop."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BadRulesError: it can't be used: without the rules that a site counts on, nothing is
                served.
        """
        self._path = path
        self._version = _version(path)
        try:
            self.rules = read_rules(path)
        except BadRulesError as error:
            raise BadRulesError([f"{path}: {each}" for each in error.problems]) from error
        self._file: SiteRules | BadRulesError = self.rules
        """What the file has now, in effect or not."""
        self.serving: Callable[[], GatewayRelease | None] = lambda: None
        """Returns the release that is served; None before there is one."""
        self._problem = ""
        self._checked: tuple[object, object] = (None, None)
        VALID.set(1)
        RULES.set(len(self.rules))

    def of(self, query: RecommendQuery) -> ActiveRules | None:
        """Return the rules for a query; None if none applies."""
        return self.rules.active(
            up_next=query.seed_key is not None,
            region=query.region,
            first_page=query.first_page,
        )

    async def run(self) -> None:
        """Take each new version of the file, until cancelled; a bad one changes nothing."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the file if it has changed and fits the release that is served, if one is."""
        release = self.serving()
        await asyncio.to_thread(self._read_if_changed)
        if self._checked[0] is self._file and self._checked[1] is release:
            return
        self._checked = (self._file, release)
        problem = await asyncio.to_thread(_problem, self._file, release)
        if isinstance(self._file, SiteRules) and self._file is not self.rules and not problem:
            self.rules = self._file
            TAKEN.inc()
            RULES.set(len(self.rules))
            log.info("rules changed", file=str(self._path), rules=len(self.rules))
        if problem and problem != self._problem:
            REFUSED.inc()
            log.error("rules refused", file=str(self._path), reason=problem)
        self._problem = problem
        VALID.set(not problem)

    def _read_if_changed(self) -> None:
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._file = read_rules(self._path)
        except BadRulesError as error:
            self._file = error


def _problem(rules: SiteRules | BadRulesError, release: GatewayRelease | None) -> str:
    """Return what is wrong with rules for a release; empty if nothing is."""
    if isinstance(rules, BadRulesError):
        return str(rules)
    if release is None:
        return ""
    try:
        rules.check(release.declared)
    except BadRulesError as error:
        return f"release {release.manifest.release_id}: {error}"
    return ""


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with each version of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
