"""Pages of metrics: each is read twice, to tell what counts now from what counted before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Certificate, Clock, Disk, Facts, Labels, Page, Samples
from vireo.ops.doctor.reach import UnansweredError, get, is_loopback

_EXPIRY = "vireo_certificate_expiry_timestamp_seconds"


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield a probe for each page."""
    for source, url in deployment.metrics.items():
        yield Probe(f"metrics of {source}", partial(_ask, deployment, source, url))
    if not deployment.metrics and not deployment.prometheus:
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
    return {name: tuple(many) for name, many in found.items()}
