"""Case 4: pods that answer wrongly, beside right ones."""

from __future__ import annotations

import asyncio
import sys

from bench.chaos import faulty_pod
from bench.chaos.chain import Chain
from bench.chaos.faulty_pod import SLOWER, UNAVAILABLE_SHARE
from bench.chaos.result import CaseResult, Findings
from server.stack.probes import grpc_probe
from server.stack.processes import ProcessSpec
from server.stack.settings import METRICS_PORT_OFFSET, POD_KINDS, PodKind

CASE = 4
TITLE = "pods that answer UNAVAILABLE, slowly, or garbage"

_FAULTS: dict[str, tuple[str, tuple[PodKind, ...]]] = {
    "unavailable": (f"{UNAVAILABLE_SHARE:.0%} UNAVAILABLE", POD_KINDS),
    "slow": (f"{SLOWER} times slower", POD_KINDS),
    # Nobody stands between a gateway's scores and the caller.
    "nan": ("NaN scores", ("candidate", "ranking")),
}
_PORT_OFFSET = 90
"""From the stack's first port: it has no other that far."""


async def run(chain: Chain) -> CaseResult:
    """Adds a pod of each kind that has one fault, then one with the next."""
    findings, plan = chain.findings(CASE), chain.plan
    async with chain.load() as load:
        for number, (fault, (described, kinds)) in enumerate(_FAULTS.items()):
            spec = _faulty_process(chain, fault, chain.settings.port_base + _PORT_OFFSET + number)
            address = f"127.0.0.1:{spec.port}"
            async with (
                chain.further_process(spec),
                chain.listed(dict.fromkeys(kinds, address)),
            ):
                asked = await _asked(chain, kinds, address, plan.faulty)
                _check(findings, described, asked)
                chain.tell(f"{described}: asked {asked}; {len(load.answers)} answers")
    return findings.result(load)


def _check(findings: Findings, described: str, asked: dict[PodKind, int]) -> None:
    for kind, calls in asked.items():
        findings.must(calls > 0, f"the {kind} pod with {described} was never asked")
    counts = ", ".join(f"{calls} as {kind}" for kind, calls in asked.items())
    findings.note(f"{described}: asked {counts}")


async def _asked(
    chain: Chain, kinds: tuple[PodKind, ...], address: str, seconds: float
) -> dict[PodKind, int]:
    """How often the pod was asked as each kind, once it was at all and the time is over."""
    patience, asked = chain.plan.patience, dict.fromkeys(kinds, 0)
    while (seconds > 0 or not all(asked.values())) and patience > 0:
        await asyncio.sleep(0.5)
        seconds, patience = seconds - 0.5, patience - 0.5
        for kind in kinds:
            host = await chain.host(kind, address)
            asked[kind] = host.requests if host else 0
    return asked


def _faulty_process(chain: Chain, fault: str, port: int) -> ProcessSpec:
    targets = {
        f"VIREO_{kind.upper()}_TARGET": f"127.0.0.1:{chain.settings.pod_ports(kind)[0]}"
        for kind in POD_KINDS
    }
    return ProcessSpec(
        name=f"faulty-{fault}",
        command=[sys.executable, "-m", faulty_pod.__name__],
        port=port,
        probe=grpc_probe(port, ""),
        environment={
            **targets,
            "VIREO_PORT": str(port),
            "VIREO_METRICS_PORT": str(port + METRICS_PORT_OFFSET),
            "VIREO_FAULT": fault,
        },
    )
