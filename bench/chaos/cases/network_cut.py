"""Case 8: pods on another host, whose network drops every packet for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.other_host import NoNamespaceError, OtherHost, other_host
from vireo.ops.stack.processes import ProcessSpec
from vireo.ops.stack.settings import PodKind

_KINDS: tuple[PodKind, ...] = ("candidate", "ranking")
"""What runs on the other host; a gateway would need an Envoy there."""
_TAKES_TRAFFIC = 5
"""Calls after which a pod counts as in use."""


async def run(chain: Chain) -> CaseResult:
    """Add pods on another host, cut them off, and mend the network."""
    try:
        with other_host(chain.settings.port_base // 100) as host:
            async with chain.load() as load:
                await _cut(chain, host)
        return chain.findings.result(load)
    except NoNamespaceError as error:
        return chain.findings.skipped(str(error))


async def _cut(chain: Chain, host: OtherHost) -> None:
    plan, findings = chain.plan, chain.findings
    async with pods_elsewhere(chain, host) as places:

        async def out() -> bool:
            return not any([(await chain.host(kind, at)).healthy for kind, at in places.items()])

        with host.cut_off():
            took = await findings.until(out, "the cut host's pods were never taken out")
            await asyncio.sleep(max(0.0, plan.cut - took))
            before = await _requests(chain, places)
        back = await _until_used(chain, places, before, "the host's pods were not used again")
        findings.note(f"out after {took:.1f} s, in use again {back:.1f} s after the network")
        await asyncio.sleep(plan.settle)


@asynccontextmanager
async def pods_elsewhere(chain: Chain, host: OtherHost) -> AsyncIterator[Mapping[PodKind, str]]:
    """Yield address:port of a pod of each kind on another host, once they get calls."""
    specs = {kind: _pod(chain, kind, host) for kind in _KINDS}
    places = {kind: f"{host.address}:{spec.port}" for kind, spec in specs.items()}
    async with AsyncExitStack() as stack:
        for spec in specs.values():
            pod = chain.further_process(spec, host.address, host.enter)
            await stack.enter_async_context(pod)
        await stack.enter_async_context(chain.listed(places))
        unused = dict.fromkeys(_KINDS, 0)
        otherwise = "the other host's pods were not used at first"
        await _until_used(chain, places, unused, otherwise)
        yield places


async def _requests(chain: Chain, places: Mapping[PodKind, str]) -> dict[PodKind, int]:
    return {kind: (await chain.host(kind, place)).requests for kind, place in places.items()}


async def _until_used(
    chain: Chain, places: Mapping[PodKind, str], before: Mapping[PodKind, int], otherwise: str
) -> float:
    """Return the seconds until each pod has got some more calls; see `Findings.until`."""

    async def used() -> bool:
        now = await _requests(chain, places)
        return all(now[kind] >= before[kind] + _TAKES_TRAFFIC for kind in _KINDS)

    return await chain.findings.until(used, otherwise)


def _pod(chain: Chain, kind: PodKind, host: OtherHost) -> ProcessSpec:
    """Return a real pod, which finds no S3 there and serves the release in the cache."""
    spec = chain.stack.further_pod(kind)
    name = f"{kind}-elsewhere"
    there = {"VIREO_HOST": host.address, "VIREO_POD_NAME": name}
    return replace(spec, name=name, environment={**spec.environment, **there})
