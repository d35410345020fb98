"""Case 8: pods on another host, whose network drops every packet for a while."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import replace

from bench.chaos.chain import Chain
from bench.chaos.other_host import NoNamespaceError, OtherHost, other_host
from bench.chaos.result import CaseResult, Findings
from bench.chaos.waiting import seconds_until
from server.stack.processes import ProcessSpec
from server.stack.settings import PodKind

CASE = 8
TITLE = "a host cut off: packets dropped, not refused"

_KINDS: tuple[PodKind, ...] = ("candidate", "ranking")
"""What runs on the other host; a gateway would need an Envoy there."""
_TAKES_TRAFFIC = 5
"""Calls after which a pod counts as in use."""


async def run(chain: Chain) -> CaseResult:
    """Adds pods on another host, cuts them off, and mends the network."""
    findings = chain.findings(CASE)
    try:
        with other_host(chain.settings.port_base // 100) as host:
            async with chain.load() as load:
                await _cut(chain, host, findings)
        return findings.result(load)
    except NoNamespaceError as error:
        return CaseResult(CASE, 0, 0, 0, None, f"skipped: {error}")


async def _cut(chain: Chain, host: OtherHost, findings: Findings) -> None:
    plan = chain.plan
    async with AsyncExitStack() as stack:
        specs = {kind: _pod(chain, kind, host) for kind in _KINDS}
        for spec in specs.values():
            await stack.enter_async_context(
                chain.further_process(spec, host.address, before=host.enter)
            )
        places = {kind: f"{host.address}:{spec.port}" for kind, spec in specs.items()}
        await stack.enter_async_context(chain.listed(places))
        used = await seconds_until(lambda: _used(chain, places, {}), plan.patience)
        findings.must(math.isfinite(used), "the other host's pods were not used at first")
        host.cut()
        try:
            out = await seconds_until(lambda: _out(chain, places), plan.patience)
            findings.must(math.isfinite(out), "the cut host's pods were never taken out")
            await asyncio.sleep(max(0.0, plan.cut - out))
            before = await _requests(chain, places)
        finally:
            host.mend()
        back = await seconds_until(lambda: _used(chain, places, before), plan.patience)
        findings.must(math.isfinite(back), "the host's pods were not used again")
        text = f"out after {out:.1f} s, in use again {back:.1f} s after the network"
        findings.note(text)
        chain.tell(text)
        await asyncio.sleep(plan.settle)


async def _requests(chain: Chain, places: dict[PodKind, str]) -> dict[PodKind, int]:
    hosts = {kind: await chain.host(kind, place) for kind, place in places.items()}
    return {kind: host.requests if host else 0 for kind, host in hosts.items()}


async def _used(chain: Chain, places: dict[PodKind, str], before: dict[PodKind, int]) -> bool:
    now = await _requests(chain, places)
    return all(now[kind] >= before.get(kind, 0) + _TAKES_TRAFFIC for kind in places)


async def _out(chain: Chain, places: dict[PodKind, str]) -> bool:
    hosts = [await chain.host(kind, place) for kind, place in places.items()]
    return not any(host and host.healthy for host in hosts)


def _pod(chain: Chain, kind: PodKind, host: OtherHost) -> ProcessSpec:
    """A real pod, which finds no S3 server there and serves the release in the cache."""
    spec = chain.further_pod(kind)
    name = f"{kind}-elsewhere"
    return replace(
        spec,
        name=name,
        environment={**spec.environment, "VIREO_HOST": host.address, "VIREO_POD_NAME": name},
    )
