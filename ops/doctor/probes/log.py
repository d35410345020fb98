"""The log of events: whether it answers, and whether it stores what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Facts, Fault, Part
from vireo.ops.doctor.reach import UnansweredError, get, reach, words
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the log that the settings name."""
    if deployment.log is not None and deployment.log.named:
        yield Probe("the log of events", partial(_ask, deployment))
    else:
        yield Probe.unnamed("the log of events", "set VIREO_NATS_URL")


def _ask(deployment: Deployment) -> Facts:
    settings = deployment.log
    assert settings is not None
    where = f"the log at {_shown(settings)}"
    fault, problem = _fault(deployment, settings)
    return Facts(parts=(Part("log", where, fault, problem),))


def _shown(settings: EventLogSettings) -> str:
    """Return its addresses without credentials."""
    return ", ".join(_address(url) for url in settings.servers)


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or 4222}"


def _fault(deployment: Deployment, settings: EventLogSettings) -> tuple[Fault, str]:
    faults = [reach(_address(url)) for url in settings.servers]
    if faults and all(faults):
        return faults[0], words(faults[0])
    if deployment.log_health:
        try:
            response = get(deployment.log_health, deployment.answer)
        except UnansweredError as error:
            return error.fault, str(error)
        if response.status != 200:
            return "failed", f"it stores nothing: {response.body.strip() or response.status}"
    try:
        asyncio.run(_end(settings, 2 * deployment.answer))
    except TimeoutError:
        return "silent", words("silent")
    except VireoError as error:
        return "failed", str(error)
    return "", ""


async def _end(settings: EventLogSettings, seconds: float) -> None:
    from vireo.server.event_log.log import CATALOG
    from vireo.server.event_log.open import opened_log

    async with opened_log(settings, read_only=True) as log, asyncio.timeout(seconds):
        await log.end(CATALOG)
