"""The pages that a Prometheus has read: now, and a minute ago."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

from clients.doctor.deployment import Deployment, Probe
from clients.doctor.facts import Facts
from clients.doctor.page import Labels, Page, Samples
from clients.doctor.probes.metrics import further
from clients.doctor.reach import UnansweredError, get
from server.errors import VireoError

_WINDOW = 60.0
_OURS = '{__name__=~"vireo_.+"}'
_JOB = 'up{job=~"vireo.*"}'


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of a Prometheus, if one is named."""
    if deployment.prometheus:
        yield Probe(f"Prometheus at {deployment.prometheus}", partial(_ask, deployment))


def _ask(deployment: Deployment) -> Facts:
    now = _by_instance(_query(deployment, _OURS))
    before = _by_instance(_query(deployment, f"{_OURS} offset {_WINDOW:.0f}s"))
    facts = []
    for instance, samples in now.items():
        # Whoever wasn't there a minute ago has counted everything since.
        page = Page(instance, samples, before.get(instance, {}), _WINDOW, read_at=time.time())
        facts.append(Facts.merged([Facts(pages=(page,)), further(deployment, page)]))
    for labels, up in _samples(_query(deployment, _JOB)):
        instance = labels.get("instance", "")
        if not up and instance not in now:
            page = Page(instance, fault="refused", problem="Prometheus can't read its metrics")
            facts.append(Facts(pages=(page,)))
    return Facts.merged(facts)


def _query(deployment: Deployment, expression: str) -> list[Any]:
    base = deployment.prometheus.rstrip("/")
    url = f"{base}/api/v1/query?{urlencode({'query': expression})}"
    try:
        response = get(url, deployment.answer)
        found = json.loads(response.body)
        return list(found["data"]["result"])
    except UnansweredError as error:
        raise VireoError(f"{error}; is that its address?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise VireoError(f"it answers with HTTP status {response.status} and no data") from error


def _samples(result: list[Any]) -> Iterator[tuple[Labels, float]]:
    for each in result:
        yield each["metric"], float(each["value"][1])


def _by_instance(result: list[Any]) -> dict[str, Samples]:
    found: dict[str, dict[str, list[tuple[Labels, float]]]] = {}
    for labels, value in _samples(result):
        page = found.setdefault(labels.get("instance", ""), {})
        page.setdefault(labels["__name__"], []).append((labels, value))
    return {
        instance: {name: tuple(many) for name, many in page.items()}
        for instance, page in found.items()
    }
