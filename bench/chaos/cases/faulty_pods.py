"""Case 4: pods that answer wrongly, beside right ones."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.chaos import faulty_pod
from bench.chaos.chain import Chain
from bench.chaos.faulty_pod import SLOWER, UNAVAILABLE_SHARE
from bench.chaos.findings import CaseResult
from vireo.ops.stack.probes import grpc_probe
from vireo.ops.stack.processes import ProcessSpec
from vireo.ops.stack.settings import POD_KINDS, PodKind

_FAULTS: dict[str, tuple[str, tuple[PodKind, ...]]] = {
    "unavailable": (f"{UNAVAILABLE_SHARE:.0%} UNAVAILABLE", POD_KINDS),
    "slow": (f"{SLOWER} times slower", POD_KINDS),
    # Nothing checks a gateway's scores on the way to the caller.
    "nan": ("NaN scores", ("candidate", "ranking")),
}
_PORT_OFFSET = 97
"""From the first port of the stack, whose others are all below it."""


async def run(chain: Chain) -> CaseResult:
    """Add a pod of each kind that has one fault, then one with the next."""
    async with chain.load() as load:
        for fault, (described, kinds) in _FAULTS.items():
            async with listed_faulty(chain, fault) as address:
                asked = await _asked(chain, kinds, address)
            for kind, calls in asked.items():
                never = f"the {kind} pod with {described} was never asked"
                chain.findings.must(calls > 0, never)
            counts = ", ".join(f"{calls} as {kind}" for kind, calls in asked.items())
            chain.findings.note(f"{described}: asked {counts}")
    return chain.findings.result(load)


@asynccontextmanager
async def listed_faulty(chain: Chain, fault: str) -> AsyncIterator[str]:
    """Have discovery find a further pod with a fault until the block ends; yield its address.

    Args:
        chain: the stack.
        fault: "unavailable", "slow" or "nan".
    """
    _, kinds = _FAULTS[fault]
    port = chain.settings.port_base + _PORT_OFFSET + [*_FAULTS].index(fault)
    address = f"127.0.0.1:{port}"
    spec = _process(chain, fault, port)
    async with chain.further_process(spec), chain.listed(dict.fromkeys(kinds, address)):
        yield address


async def _asked(chain: Chain, kinds: tuple[PodKind, ...], address: str) -> dict[PodKind, int]:
    """Return the calls that the pod got as each kind, once the time is over and it got some."""

    async def calls() -> dict[PodKind, int]:
        return {kind: (await chain.host(kind, address)).requests for kind in kinds}

    async def all_asked() -> bool:
        return all((await calls()).values())

    await asyncio.sleep(chain.plan.faulty)
    await chain.findings.until(all_asked)
    return await calls()


def _process(chain: Chain, fault: str, port: int) -> ProcessSpec:
    targets = [f"{kind}=127.0.0.1:{chain.settings.pod_ports(kind)[0]}" for kind in POD_KINDS]
    command = [sys.executable, "-m", faulty_pod.__name__, str(port), fault, *targets]
    return ProcessSpec(f"faulty-{fault}", command, port, grpc_probe(port, ""))
