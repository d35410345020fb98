"""Case 6: no control plane for a while, and one that sends what Envoy rejects."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from bench.chaos.chain import Chain
from bench.chaos.result import CaseResult, Findings
from bench.chaos.waiting import seconds_until
from bench.stack import VIREO
from server.rpc.health import health_problem
from server.stack.processes import ADS, control_process
from server.stack.s3 import access

CASE = 6
TITLE = "control plane dead while pods come and go; a configuration that Envoy rejects"

_TAKES_UP_SECONDS = 2.0
_KILLED = "ranking-1"
_BAD_ORIGINS = "("
"""A setting that ends up in a route as a regular expression, and is none."""
_PROBE_SECONDS = 0.5
_COMMAND_SECONDS = 30.0
_MOST_WORDS = 80


async def run(chain: Chain) -> CaseResult:
    """Takes the control plane away, then has one with a bad configuration in its place."""
    findings = chain.findings(CASE)
    async with chain.load() as load:
        await asyncio.sleep(chain.plan.quiet)
        await _absent(chain, findings)
        await _rejected(chain, findings)
        await asyncio.sleep(chain.plan.settle)
    return findings.result(load)


async def _absent(chain: Chain, findings: Findings) -> None:
    """While it is dead one pod is killed and returns, and one is new where no other was."""
    plan, new = chain.plan, chain.further_pod("ranking")
    address = f"127.0.0.1:{new.port}"
    async with chain.further_process(new), AsyncExitStack() as listing:
        async with chain.held_down(["control"]):
            gone = time.monotonic()
            took = await chain.until_replaced(_KILLED, chain.send(_KILLED, signal.SIGKILL))
            findings.must(
                math.isfinite(took), f"without a control plane {_KILLED} got no calls again"
            )
            chain.tell(f"{_KILLED} was killed and is back after {took:.1f} s")
            await listing.enter_async_context(chain.listed({"ranking": address}))
            await asyncio.sleep(max(0.0, gone + plan.control_outage - time.monotonic()))
        findings.note(f"{time.monotonic() - gone:.0f} s without it")
        await _takes_up(chain, findings, address)


async def _takes_up(chain: Chain, findings: Findings, address: str) -> None:
    """Checks that the new pod is asked soon after the control plane answers again."""

    async def serving() -> bool:
        return not await health_problem(
            f"127.0.0.1:{chain.settings.control_port}", ADS, _PROBE_SECONDS
        )

    async def asked() -> bool:
        host = await chain.host("ranking", address)
        return host is not None and host.requests > 0

    started = await seconds_until(serving, chain.plan.patience)
    findings.must(math.isfinite(started), "the control plane did not come back")
    took = await seconds_until(asked, chain.plan.patience)
    limit = chain.plan.within(_TAKES_UP_SECONDS)
    findings.must(took <= limit, f"the new pod got its first call only after {took:.1f} s")
    text = f"the new pod was asked {took:.1f} s after the control plane was back"
    findings.note(text)
    chain.tell(text)


async def _rejected(chain: Chain, findings: Findings) -> None:
    """Runs a control plane whose edge routes are bad where the stack's own would be."""
    server = access(chain.settings)
    assert server is not None, "the stack has made it"
    endpoints = chain.settings.home_folder.stack / "endpoints.json"
    spec = control_process(chain.settings, server, endpoints)
    bad = replace(
        spec,
        name="control-bad",
        environment={**spec.environment, "VIREO_CORS_ORIGINS": _BAD_ORIGINS},
    )

    async def taken() -> bool:
        return _routes(await _snapshot(chain)).get("state") == "ACKED"

    async def refused() -> bool:
        return _routes(await _snapshot(chain)).get("state") == "NACKED"

    patience = chain.plan.patience
    findings.must(math.isfinite(await seconds_until(taken, patience)), "the routes were not taken")
    good = _routes(await _snapshot(chain))
    async with AsyncExitStack() as running:
        async with chain.held_down(["control"]):
            await running.enter_async_context(chain.further_process(bad))
        # From now on the supervisor's own finds the port taken, again and again.
        shown = await seconds_until(refused, patience)
        findings.must(math.isfinite(shown), "the snapshot shows no rejection")
        now = _routes(await _snapshot(chain))
        stays = now.get("version") == good.get("version")
        findings.must(stays, "the last good routes did not stay")
        findings.must(bool(now.get("words")), "the snapshot has none of Envoy's words")
        findings.note(f"rejected: {str(now.get('words'))[:_MOST_WORDS]!r}")
        chain.tell(f"Envoy rejected the edge's routes: {now.get('words')}")
        await asyncio.sleep(chain.plan.settle)
    mended = await seconds_until(taken, patience)
    findings.must(math.isfinite(mended), "the good routes were not taken again")


async def _snapshot(chain: Chain) -> list[dict[str, Any]]:
    """What `vireo control snapshot` prints; nothing while there is no control plane."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*VIREO, "control", "snapshot", "--json"],
        env=dict(chain.environment),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found


def _routes(envoys: list[dict[str, Any]]) -> dict[str, Any]:
    """The edge's routes on the stack's Envoy; empty where it is not connected."""
    for envoy in envoys:
        for resource in envoy["resources"] if envoy["connected"] else ():
            if (resource["kind"], resource["name"]) == ("routes", "edge"):
                return dict(resource)
    return {}
