"""Case 6: no control plane for a while, and one that sends what Envoy rejects."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.process import serves
from bench.stack import VIREO
from vireo.ops.stack.processes import ADS, control_process

_TAKES_UP_SECONDS = 2.0
_KILLED = "ranking-1"
_BAD_ORIGINS = "("
"""A setting that ends up in a route as a regular expression, and is none."""
_COMMAND_SECONDS = 30.0
_MAX_LETTERS = 80


async def run(chain: Chain) -> CaseResult:
    """Take the control plane away, then have one with a bad configuration in its place."""
    async with chain.load() as load:
        await asyncio.sleep(chain.plan.quiet)
        await _absent(chain)
        await _rejected(chain)
        await asyncio.sleep(chain.plan.settle)
    return chain.findings.result(load)


async def _absent(chain: Chain) -> None:
    """While it is dead, kill a pod, which returns, and add one at a new address."""
    plan, findings, new = chain.plan, chain.findings, chain.stack.further_pod("ranking")
    address = f"127.0.0.1:{new.port}"
    async with chain.further_process(new), AsyncExitStack() as listing:
        async with chain.held_down(["control"]):
            gone = time.monotonic()
            took = await chain.replaced(_KILLED, signal.SIGKILL)
            findings.progress(f"{_KILLED} was killed and is back after {took:.1f} s")
            await listing.enter_async_context(chain.listed({"ranking": address}))
            await asyncio.sleep(max(0.0, gone + plan.control_outage - time.monotonic()))
        findings.note(f"{time.monotonic() - gone:.0f} s without it")
        await _takes_up(chain, address)


async def _takes_up(chain: Chain, address: str) -> None:
    """Check that the new pod is asked soon after the control plane answers again."""
    findings, control = chain.findings, f"127.0.0.1:{chain.settings.control_port}"

    async def asked() -> bool:
        return (await chain.host("ranking", address)).requests > 0

    serving = partial(asyncio.to_thread, serves, control, ADS)
    await findings.until(serving, "the control plane did not come back")
    took = await findings.until(asked)
    limit = chain.plan.within(_TAKES_UP_SECONDS)
    findings.must(took <= limit, f"the new pod got its first call only after {took:.1f} s")
    findings.note(f"the new pod was asked {took:.1f} s after the control plane was back")


async def _rejected(chain: Chain) -> None:
    """Check that Envoy rejects bad edge routes, and goes on with the last good ones."""
    findings = chain.findings

    async def taken() -> bool:
        return (await _routes(chain)).get("state") == "ACKED"

    async def refused() -> bool:
        return (await _routes(chain)).get("state") == "NACKED"

    await findings.until(taken, "the routes were not taken")
    good = await _routes(chain)
    async with bad_control_plane(chain):
        await findings.until(refused, "the snapshot shows no rejection")
        now = await _routes(chain)
        stays = now.get("version") == good.get("version")
        findings.must(stays, "the last good routes did not stay")
        findings.must(bool(now.get("words")), "the snapshot has no message of Envoy's")
        findings.note(f"rejected: {str(now.get('words'))[:_MAX_LETTERS]!r}")
        await asyncio.sleep(chain.plan.settle)
    await findings.until(taken, "the good routes were not taken again")


@asynccontextmanager
async def bad_control_plane(chain: Chain) -> AsyncIterator[None]:
    """Have a control plane with bad edge routes in place of the stack's own for a block."""
    endpoints = chain.stack.home.stack / "endpoints.json"
    spec = control_process(chain.settings, chain.stack.s3, endpoints)
    origins = {"VIREO_CORS_ORIGINS": _BAD_ORIGINS}
    bad = replace(spec, name="control-bad", environment={**spec.environment, **origins})
    async with AsyncExitStack() as running:
        async with chain.held_down(["control"]):
            await running.enter_async_context(chain.further_process(bad))
        # From now on the supervisor's own finds the port taken, again and again.
        yield


async def _routes(chain: Chain) -> dict[str, Any]:
    """Return the edge's routes as `vireo control snapshot` shows them.

    Empty if there is no control plane, or the stack's Envoy isn't connected.
    """
    command = [*VIREO, "control", "snapshot", "--json"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=dict(chain.stack.environment),
        capture_output=True,
        timeout=_COMMAND_SECONDS,
    )
    for envoy in json.loads(done.stdout) if done.returncode == 0 else ():
        for resource in envoy["resources"] if envoy["connected"] else ():
            if (resource["kind"], resource["name"]) == ("routes", "edge"):
                return dict(resource)
    return {}
