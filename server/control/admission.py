"""Follows discovery, checks pods that are new, and tells the members of every pool."""

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
    """The members of every pool, kept up to date while `run` runs."""

    def __init__(
        self,
        discovery: Discovery,
        patience: Patience,
        interval: float,
        first_seconds: float,
        changed: Callable[[Mapping[Pool, Members]], None],
        tls: TlsFiles | None = None,
    ) -> None:
        """Takes where pods are found and whom to tell.

        Args:
            discovery: the source of endpoints.
            patience: how long to keep pods that are gone.
            interval: seconds between the checks of a pod that has not been healthy yet.
            first_seconds: how long to wait at first until all pods of production are healthy.
            changed: called with all members at first, after that, and on each change.
            tls: with which to check pods that speak mutual TLS.
        """
        self._discovery = discovery
        self._finding = discovery.attempts or Attempts("list")
        self._publishing = Attempts("members")
        self._interval = interval
        self._first_seconds = first_seconds
        self._changed = changed
        self._tls = tls
        # A canary or shadow pool is not worth calls to pods that nobody has seen healthy:
        # production answers for the one, nobody misses the other.
        self._pools = {
            pool: Membership(patience, trusting=pool.name == "production") for pool in POOLS
        }
        self._found = asyncio.Event()
        self._checked = False
        self._told: Mapping[Pool, Members] | None = None
        self._checks = asyncio.Semaphore(_PARALLEL_CHECKS)
        self._unintelligible: set[tuple[Pool, Endpoint]] = set()
        """Pods whose answers to a check can't be understood, and of which that was logged."""
        self.counts: Mapping[Pool, Counts] = {}
        """How many pods of each pool are in each state, as last told; replaced, never changed."""

    @property
    def attempts(self) -> tuple[Attempts, Attempts]:
        """How it goes to find pods, and to pass on the members that are made of them."""
        return self._finding, self._publishing

    async def run(self) -> None:
        """Goes on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._check())

    async def _follow(self) -> None:
        while True:
            # Sources contain their failures; whatever one lets through is its failure as well.
            with self._finding.contained():
                async for endpoints in self._discovery.watch():
                    for pool, membership in self._pools.items():
                        membership.found(endpoints.get(pool, frozenset()), time.monotonic())
                    counts = {pool.cluster: len(each) for pool, each in endpoints.items()}
                    log.info("pods found", **counts)
                    self._found.set()
                    if self._discovery.attempts is None:
                        self._finding.succeeded()
                    self._tell()
            await asyncio.sleep(self._finding.pause(_RETRY_SECONDS))

    async def _check(self) -> None:
        await self._found.wait()
        await self._check_first()
        while True:
            self._tell()
            await asyncio.sleep(self._interval)
            await self._check_once()

    async def _check_first(self) -> None:
        """Checks production's pods until all are healthy, and admits the others in the end.

        Envoys may have them all from a control plane before this one, and would drop at once
        what it leaves out: a pod that is slow to answer is theirs to check, not to lose.
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
            log.warning("pod admitted unseen", pool=pool.cluster, endpoint=str(endpoint))
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
            # Declared policy: whatever a pod answers, only it isn't healthy.
            if (pool, endpoint) not in self._unintelligible:
                self._unintelligible.add((pool, endpoint))
                log.exception("pod can't be checked", pool=pool.cluster, endpoint=str(endpoint))
            return False

    def _tell(self) -> None:
        if not self._checked:
            return
        now = time.monotonic()
        members = {pool: membership.members(now) for pool, membership in self._pools.items()}
        self.counts = {pool: each.counts(members[pool]) for pool, each in self._pools.items()}
        with self._publishing.contained():
            if members != self._told:
                self._changed(members)
                self._told = members
            self._publishing.succeeded()
