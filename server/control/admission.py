"""Follow discovery, check the health of new pods, and publish the members of every pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from server.control.attempts import Attempts
from server.control.discovery.source import Discovery
from server.control.membership import Counts, Membership
from server.control.mesh import GRPC_SERVICES, POOLS, Endpoint, Members, Pool
from server.control.settings import ControlSettings
from server.rpc.health import health_problem

log = structlog.get_logger()

_RETRY_SECONDS = 0.25
_CHECK_SECONDS = 0.5
_PARALLEL_CHECKS = 64
_SETTLED_SECONDS = 10.0
"""Seconds between looks at the members while only discovery can change them, which ends the wait at
once. Each look renews the age of the last success in the metrics."""


class Admission:
    """The members of every pool, kept up to date by `run`."""

    def __init__(
        self,
        settings: ControlSettings,
        discovery: Discovery,
        changed: Callable[[Mapping[Pool, Members]], None],
    ) -> None:
        """Start without members.

        `changed` is called with all members once production's pods are healthy, or their timeout
        has passed, and on each change.
        """
        self._settings = settings
        self._discovery = discovery
        self._publishing = Attempts("members")
        self._changed = changed
        # Only production's pods are trusted before their first successful check: production
        # stands in for a canary pool, and shadow responses aren't needed.
        self._pools = {
            pool: Membership(
                drain_seconds=settings.endpoint_drain_seconds,
                empty_seconds=settings.empty_pool_grace_seconds,
                trusting=pool.name == "production",
            )
            for pool in POOLS
        }
        self._found = asyncio.Event()
        """Set when discovery finds other pods than before."""
        self._checked = False
        self._published: Mapping[Pool, Members] | None = None
        self._checks = asyncio.Semaphore(_PARALLEL_CHECKS)
        self._unintelligible: set[tuple[Pool, Endpoint]] = set()
        """Pods whose invalid responses to a health check have been logged."""
        self.attempts = (discovery.attempts, self._publishing)
        """Attempts to find pods, and to publish their pools' members."""
        self.counts: Mapping[Pool, Counts] = {}
        """Pods of each pool by state, as last published; replaced, never mutated."""

    async def run(self) -> None:
        """Follow discovery and check pods until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._check())

    async def _follow(self) -> None:
        attempts = self._discovery.attempts
        while True:
            # Sources handle their own failures; any exception that escapes counts as one, too.
            with attempts.contained():
                async for endpoints in self._discovery.watch():
                    for pool, membership in self._pools.items():
                        membership.found(endpoints.get(pool, frozenset()), time.monotonic())
                    counts = {pool.cluster: len(each) for pool, each in endpoints.items()}
                    log.info("pods found", **counts)
                    self._found.set()
                    self._publish()
            await asyncio.sleep(attempts.pause(_RETRY_SECONDS))

    async def _check(self) -> None:
        await self._found.wait()
        await self._check_first()
        while True:
            self._publish()
            await self._pause()
            await self._check_once()

    async def _pause(self) -> None:
        """Return after the interval of checks; if all pods are admitted, once others are found."""
        if not all(each.is_settled() for each in self._pools.values()) or self._publishing.failing:
            await asyncio.sleep(self._settings.admission_interval)
            return
        self._found.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLED_SECONDS):
                await self._found.wait()

    async def _check_first(self) -> None:
        """Wait for production's pods to be healthy, up to a timeout, then admit the rest.

        Envoys may have all of them from a previous control plane, and would drop any that is left
        out at once: a pod that is slow to respond is for Envoy's own health checks to judge.
        """
        first = {
            (pool, endpoint) for pool, endpoint in self._waiting() if pool.name == "production"
        }
        end = time.monotonic() + self._settings.initial_admission_timeout
        await self._check_once()
        while (missing := first & self._waiting()) and time.monotonic() < end:
            await asyncio.sleep(self._settings.admission_interval)
            await self._check_once()
        for pool, endpoint in sorted(missing):
            log.warning("unhealthy pod admitted", pool=pool.cluster, endpoint=str(endpoint))
            self._pools[pool].admit(endpoint)
        self._checked = True

    def _waiting(self) -> set[tuple[Pool, Endpoint]]:
        return {(pool, endpoint) for pool, each in self._pools.items() for endpoint in each.waiting}

    async def _check_once(self) -> None:
        waiting = self._waiting()
        self._unintelligible &= waiting
        async with asyncio.TaskGroup() as group:
            for pool, endpoint in waiting:
                group.create_task(self._admit_if_healthy(pool, endpoint))

    async def _admit_if_healthy(self, pool: Pool, endpoint: Endpoint) -> None:
        async with self._checks:
            if await self._is_healthy(pool, endpoint):
                log.info("pod admitted", pool=pool.cluster, endpoint=str(endpoint))
                self._pools[pool].admit(endpoint)

    async def _is_healthy(self, pool: Pool, endpoint: Endpoint) -> bool:
        service, tls = GRPC_SERVICES[pool.service], self._settings.tls
        try:
            return not await health_problem(
                str(endpoint), service, _CHECK_SECONDS, tls, pool.service
            )
        except Exception:
            # Declared policy: an invalid response makes this pod unhealthy and affects no other.
            if (pool, endpoint) not in self._unintelligible:
                self._unintelligible.add((pool, endpoint))
                log.exception("health check failed", pool=pool.cluster, endpoint=str(endpoint))
            return False

    def _publish(self) -> None:
        if not self._checked:
            return
        now = time.monotonic()
        members = {pool: membership.members(now) for pool, membership in self._pools.items()}
        self.counts = {pool: each.counts(members[pool]) for pool, each in self._pools.items()}
        with self._publishing.contained():
            if members != self._published:
                self._changed(members)
                self._published = members
            self._publishing.succeeded()
