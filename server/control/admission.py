"""Follow discovery, check the health of new pods, and publish the members of every pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from server.control.attempts import Attempts
from server.control.discovery.source import Discovery
from server.control.membership import Counts, Membership, Patience
from server.control.mesh import GRPC_SERVICES, POOLS, Endpoint, Endpoints, Members, Pool
from server.rpc.health import health_problem
from server.rpc.tls import TlsFiles

log = structlog.get_logger()

_RETRY_SECONDS = 0.25
_CHECK_SECONDS = 0.5
_PARALLEL_CHECKS = 64


class Admission:
    """The members of every pool, kept up to date by `run`."""

    def __init__(
        self,
        discovery: Discovery,
        patience: Patience,
        interval: float,
        first_seconds: float,
        changed: Callable[[Mapping[Pool, Members]], None],
        tls: TlsFiles | None = None,
    ) -> None:
        """Start without members.

        Args:
            discovery: the source of endpoints.
            patience: how long to keep pods that are gone.
            interval: seconds between health checks of a pod that has not been healthy yet.
            first_seconds: maximum seconds to wait at the start for all pods of production to be
                healthy.
            changed: called with all members after that wait, and on each change.
            tls: certificates for checking pods over mutual TLS.
        """
        self._discovery = discovery
        self._finding = discovery.attempts or Attempts("list")
        self._publishing = Attempts("members")
        self._interval = interval
        self._first_seconds = first_seconds
        self._changed = changed
        self._tls = tls
        # Only production's pods are trusted before their first successful check: production
        # stands in for a canary pool, and shadow responses aren't needed.
        self._pools = {
            pool: Membership(patience, trusting=pool.name == "production") for pool in POOLS
        }
        self._found = asyncio.Event()
        self._checked = False
        self._published: Mapping[Pool, Members] | None = None
        self._checks = asyncio.Semaphore(_PARALLEL_CHECKS)
        self._unintelligible: set[tuple[Pool, Endpoint]] = set()
        """Pods whose invalid responses to a health check have been logged."""
        self.counts: Mapping[Pool, Counts] = {}
        """Pods of each pool by state, as last published; replaced, never mutated."""

    @property
    def attempts(self) -> tuple[Attempts, Attempts]:
        """Attempts to find pods, and to publish their pools' members."""
        return self._finding, self._publishing

    async def run(self) -> None:
        """Follow discovery and check pods until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._check())

    async def _follow(self) -> None:
        while True:
            # Sources handle their own failures; any exception that escapes counts as one, too.
            with self._finding.contained():
                async for endpoints in self._discovery.watch():
                    for pool, membership in self._pools.items():
                        membership.found(endpoints.get(pool, frozenset()), time.monotonic())
                    counts = {pool.cluster: len(each) for pool, each in endpoints.items()}
                    log.info("pods found", **counts)
                    self._found.set()
                    if self._discovery.attempts is None:
                        self._finding.succeeded()
                    self._publish()
            await asyncio.sleep(self._finding.pause(_RETRY_SECONDS))

    async def _check(self) -> None:
        await self._found.wait()
        await self._check_first()
        while True:
            self._publish()
            await asyncio.sleep(self._interval)
            await self._check_once()

    async def _check_first(self) -> None:
        """Wait up to `first_seconds` for production's pods to be healthy, then admit the rest.

        Envoys may have all of them from a previous control plane, and would drop any that is left
        out at once: a pod that is slow to respond is for Envoy's own health checks to judge.
        """
        first = {
            pool: membership.waiting
            for pool, membership in self._pools.items()
            if pool.name == "production"
        }
        end = time.monotonic() + self._first_seconds
        await self._check_once()
        while (missing := self._waiting(first)) and time.monotonic() < end:
            await asyncio.sleep(self._interval)
            await self._check_once()
        for pool, endpoint in missing:
            log.warning("unhealthy pod admitted", pool=pool.cluster, endpoint=str(endpoint))
            self._pools[pool].admit(endpoint)
        self._checked = True

    def _waiting(self, among: Endpoints) -> list[tuple[Pool, Endpoint]]:
        return [
            (pool, endpoint)
            for pool, endpoints in among.items()
            for endpoint in endpoints & self._pools[pool].waiting
        ]

    async def _check_once(self) -> None:
        waiting = [
            (pool, endpoint) for pool, each in self._pools.items() for endpoint in each.waiting
        ]
        self._unintelligible.intersection_update(waiting)
        async with asyncio.TaskGroup() as group:
            for pool, endpoint in waiting:
                group.create_task(self._admit_if_healthy(pool, endpoint))

    async def _admit_if_healthy(self, pool: Pool, endpoint: Endpoint) -> None:
        async with self._checks:
            if await self._is_healthy(pool, endpoint):
                log.info("pod admitted", pool=pool.cluster, endpoint=str(endpoint))
                self._pools[pool].admit(endpoint)

    async def _is_healthy(self, pool: Pool, endpoint: Endpoint) -> bool:
        service = GRPC_SERVICES[pool.service]
        try:
            return not await health_problem(
                str(endpoint), service, _CHECK_SECONDS, self._tls, pool.service
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
