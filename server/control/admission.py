"""Follows discovery, checks pods that are new, and tells the members of every pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from server.control.discovery.source import Discovery
from server.control.membership import Membership, Patience
from server.control.mesh import GRPC_SERVICES, POOLS, Endpoint, Members, Pool
from server.rpc.health import health_problem

log = structlog.get_logger()

_CHECK_SECONDS = 0.5
_PARALLEL_CHECKS = 64


class Admission:
    """The members of every pool, kept up to date while `run` runs."""

    def __init__(
        self,
        discovery: Discovery,
        patience: Patience,
        interval: float,
        changed: Callable[[Mapping[Pool, Members]], None],
    ) -> None:
        """Takes where pods are found and whom to tell.

        Args:
            discovery: the source of endpoints.
            patience: how long to keep pods that are gone.
            interval: seconds between the checks of a pod that has not been healthy yet.
            changed: called with all members at first, once every pod that was found has been
                checked, and on each change.
        """
        self._discovery = discovery
        self._interval = interval
        self._changed = changed
        # A canary or shadow pool is not worth calls to pods that nobody has seen healthy:
        # production answers for the one, nobody misses the other.
        self._pools = {
            pool: Membership(patience, trusting=pool.name == "production") for pool in POOLS
        }
        self._found = asyncio.Event()
        self._checked = False
        self._told: Mapping[Pool, Members] | None = None
        self._checks = asyncio.Semaphore(_PARALLEL_CHECKS)

    async def run(self) -> None:
        """Goes on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._check())

    async def _follow(self) -> None:
        async for endpoints in self._discovery.watch():
            for pool, membership in self._pools.items():
                membership.found(endpoints.get(pool, frozenset()), time.monotonic())
            log.info("pods found", **{pool.cluster: len(each) for pool, each in endpoints.items()})
            self._found.set()
            self._tell()

    async def _check(self) -> None:
        await self._found.wait()
        while True:
            async with asyncio.TaskGroup() as group:
                for pool, membership in self._pools.items():
                    for endpoint in membership.waiting:
                        group.create_task(self._admit_if_healthy(pool, endpoint))
            self._checked = True
            self._tell()
            await asyncio.sleep(self._interval)

    async def _admit_if_healthy(self, pool: Pool, endpoint: Endpoint) -> None:
        async with self._checks:
            service = GRPC_SERVICES[pool.service]
            if not await health_problem(str(endpoint), service, _CHECK_SECONDS):
                log.info("pod admitted", pool=pool.cluster, endpoint=str(endpoint))
                self._pools[pool].healthy(endpoint)

    def _tell(self) -> None:
        if not self._checked:
            return
        now = time.monotonic()
        members = {pool: membership.members(now) for pool, membership in self._pools.items()}
        if members != self._told:
            self._told = members
            self._changed(members)
