"""Pages of metrics, read twice to tell what counts now; and what a Prometheus has read of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any
from urllib.parse import urlencode, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from vireo.ops.doctor.deployment import (
    MAX_BYTES,
    Deployment,
    Probe,
    UnansweredError,
    get,
    is_loopback,
)
from vireo.ops.doctor.facts import (
    SERVICES,
    Certificate,
    Clock,
    Disk,
    Edge,
    Facts,
    Host,
    Labels,
    Page,
    Samples,
)
from vireo.ops.doctor.probes.envoy import COUNTED, OPEN
from vireo.server.errors import VireoError

_EXPIRY = "vireo_certificate_expiry_timestamp_seconds"


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield a probe for each page, and one of the Prometheus that reads them."""
    for source, url in deployment.metrics.items():
        yield Probe(f"metrics of {source}", partial(_ask, deployment, source, url))
    if deployment.prometheus:
        name = f"Prometheus at {deployment.prometheus}"
        yield Probe(name, partial(ask_prometheus, deployment))
    elif not deployment.metrics:
        yield Probe.unnamed("metrics", "name them with --metrics or --prometheus")


def _ask(deployment: Deployment, source: str, url: str) -> Facts:
    began = time.monotonic()
    try:
        before, _ = _read(url, deployment.answer)
        time.sleep(deployment.window)
        now, clock = _read(url, deployment.answer)
    except UnansweredError as error:
        return Facts(pages=(Page(source, fault=error.fault, problem=str(error)),))
    seconds = time.monotonic() - began
    page = Page(source, now, before, seconds, read_at=time.time())
    return Facts.merged([Facts(pages=(page,)), further(deployment, page, clock, url)])


def further(deployment: Deployment, page: Page, clock: Clock | None = None, url: str = "") -> Facts:
    """Return what a page says of its machine, which for this one other probes find out."""
    if deployment.state is not None:
        return Facts()
    sizes = {labels["folder"]: size for labels, size in page.samples("vireo_disk_size_bytes")}
    disks = tuple(
        Disk(f"{page.source}'s {labels['folder']}", labels["folder"], free, sizes[labels["folder"]])
        for labels, free in page.samples("vireo_disk_free_bytes")
        if labels["folder"] in sizes
    )
    certificates = tuple(
        Certificate(f"{labels.get('file', '')} of {page.source}", at - time.time())
        for labels, at in page.samples(_EXPIRY)
    )
    elsewhere = not is_loopback(urlsplit(url).hostname)
    clocks = (clock,) if clock is not None and elsewhere else ()
    return Facts(disks=disks, certificates=certificates, clocks=clocks)


def _read(url: str, seconds: float) -> tuple[Samples, Clock | None]:
    response = get(url, seconds)
    if response.status != 200:
        raise UnansweredError("failed", f"HTTP status {response.status}")
    try:
        return parse(response.body), response.clock
    except (ValueError, KeyError) as error:
        raise UnansweredError("failed", f"it isn't a page of metrics ({error})") from error


def parse(text: str) -> Samples:
    """Return the samples of a page in Prometheus' text format.

    Raises:
        ValueError: it isn't one.
    """
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


_WINDOW = 60.0
_CONNECTED = "envoy_control_plane_connected_state"
_MEMBERS, _HEALTHY = "envoy_cluster_membership_total", "envoy_cluster_membership_healthy"
_JOBS = 'job=~"vireo.*|envoy"'
_OURS = ("vireo_.+", "process_cpu_seconds_total", "process_resident_memory_bytes")


def ask_prometheus(deployment: Deployment) -> Facts:
    """Return what a Prometheus has now and had a minute ago."""
    named = deployment.installation
    jobs = f"{_JOBS},installation={json.dumps(named)}" if named else _JOBS
    envoys = {series_of(each)[0] for each in chain(*COUNTED.values(), [OPEN])}
    names = "|".join([*_OURS, _CONNECTED, _MEMBERS, _HEALTHY, *sorted(envoys)])
    # Of histograms, which are most of the samples, `vireo top` reads one.
    samples = f'{{__name__=~"{names}",le="",{jobs}}}'
    buckets = f'{{__name__="vireo_rpc_seconds_bucket",{jobs}}}'
    now, before = (
        _by_target(_query(deployment, samples + at) + _query(deployment, buckets + at))
        for at in ("", f" offset {_WINDOW:.0f}s")
    )
    targets = list(_samples(_query(deployment, f"up{{{jobs}}}")))
    installations = {labels.get("installation", "") for labels, _ in targets}
    if not now and not targets:
        whose = f"the installation {named}" if named else "Vireo"
        raise VireoError(f"it has no metrics of {whose}: does it scrape its processes?")
    if len(installations) > 1:
        raise VireoError(
            f"it has several installations: name one with --installation: "
            f"{', '.join(sorted(installations - {''}))}"
        )
    read_at = time.time()
    # Whoever wasn't there a minute ago has counted everything since.
    pages = {
        target: Page(target[1], found, before.get(target, {}), _WINDOW, read_at=read_at)
        for target, found in now.items()
    }
    ours = [page for (job, _), page in pages.items() if job != "envoy"]
    dead = [
        Page(target[1], fault="refused", problem="Prometheus can't read its metrics")
        for labels, up in targets
        if not up and (target := _target(labels)) not in now
    ]
    return Facts.merged(
        [
            Facts(pages=(*ours, *dead)),
            *(further(deployment, page) for page in ours),
            _of_envoys([page for (job, _), page in pages.items() if job == "envoy"]),
        ]
    )


def _of_envoys(pages: Sequence[Page]) -> Facts:
    """Return what Envoys count at the edge, and the kinds of pods of which none is healthy.

    Their metrics don't tell one pod from another.
    """
    sidecars = [each for each in pages if any(each.samples(_CONNECTED, component="sidecar"))]
    edges = []
    series, labels = series_of(OPEN)
    for page in pages:
        # Nobody but Kubernetes calls the edge's listener of a sidecar.
        called = page not in sidecars
        counts = {
            name: sum(page.increase(each, **of) for each, of in map(series_of, names)) * called
            for name, names in COUNTED.items()
        }
        connected = not page.has(_CONNECTED) or page.value(_CONNECTED) > 0
        waiting = page.value(series, **labels) * called
        edges.append(Edge(waiting, knows_control=connected, **counts))
    hosts = []
    for kind in SERVICES:
        callers = [each for each in pages if (each in sidecars) is (kind != "gateway")] or pages
        cluster = {"envoy_cluster_name": kind}
        totals = [total for each in callers for _, total in each.samples(_MEMBERS, **cluster)]
        if totals and not any(each.value(_HEALTHY, **cluster) for each in callers):
            name = f"the {max(totals):.0f} {kind} pods that it knows"
            hosts.append(Host(kind, "", name, frozenset({"unhealthy"})))
    return Facts(edges=tuple(edges), hosts=tuple(hosts))


def series_of(statistic: str) -> tuple[str, Mapping[str, str]]:
    """Return name and label in Prometheus of a statistic of Envoy's admin interface."""
    first, second, rest = statistic.split(".", 2)
    if first in ("http", "cluster"):
        label = "envoy_cluster_name" if first == "cluster" else "envoy_http_conn_manager_prefix"
        return f"envoy_{first}_{rest}", {label: second}
    return f"envoy_{second}_{rest}", {"envoy_local_http_ratelimit_prefix": first}


def _query(deployment: Deployment, expression: str) -> list[Any]:
    base = deployment.prometheus.rstrip("/")
    limits = {"query": expression, "timeout": f"{deployment.answer:g}s"}
    try:
        response = get(f"{base}/api/v1/query?{urlencode(limits)}", deployment.answer)
        if len(response.body) >= MAX_BYTES:
            raise VireoError(f"its answer has more than {MAX_BYTES >> 20} MB; name an installation")
        found = json.loads(response.body)
        if found["status"] != "success":
            raise VireoError(f"it refuses the query: {found['error'][:200]}")
        return list(found["data"]["result"])
    except UnansweredError as error:
        raise VireoError(f"{error}; is that its address?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise VireoError(f"it answers with HTTP status {response.status} and no data") from error


def _samples(result: list[Any]) -> Iterator[tuple[Labels, float]]:
    for each in result:
        yield each["metric"], float(each["value"][1])


def _target(labels: Labels) -> tuple[str, str]:
    """Return job and instance; a gateway's pod and its Envoy are instances of one name."""
    return labels.get("job", ""), labels.get("instance", "")


def _by_target(result: list[Any]) -> Mapping[tuple[str, str], Samples]:
    found: dict[tuple[str, str], dict[str, list[tuple[Labels, float]]]] = {}
    for labels, value in _samples(result):
        page = found.setdefault(_target(labels), {})
        page.setdefault(labels["__name__"], []).append((labels, value))
    return found
