"""Facts of a healthy stack, and of one with a fault, as the doctor's probes find them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vireo.ops.doctor.facts import (
    Certificate,
    Channel,
    Clock,
    Disk,
    Edge,
    Facts,
    Host,
    Labels,
    Machine,
    Page,
    Part,
    Pod,
    Process,
    Slate,
)

DAY = 86_400.0
_KINDS = ("candidate", "ranking", "gateway")
PODS = [f"{kind}-{number}" for kind in _KINDS for number in (1, 2)]
_OTHERS = ["s3", "log", "control", "consumer-1", "envoy"]
RECOMMEND = "/vireo.v1.RecommendationService/Recommend"


def page(
    source: str,
    gauges: Mapping[str, float] | None = None,
    counts: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] | None = None,
) -> Page:
    """A page whose counters grew from 100 by `counts` within 2 s."""
    now: dict[str, tuple[tuple[Labels, float], ...]] = {
        name: (({}, value),) for name, value in (gauges or {}).items()
    }
    before = dict(now)
    for (name, labels), grew in (counts or {}).items():
        now[name] = (*now.get(name, ()), (dict(labels), 100.0 + grew))
        before[name] = (*before.get(name, ()), (dict(labels), 100.0))
    return Page(source, now, before, 2.0)


def counted(metric: str, grew: float, **labels: str) -> dict[Any, float]:
    """Growth of one counter."""
    return {(metric, tuple(labels.items())): grew}


def answered(grew: float, code: str, method: str = RECOMMEND) -> dict[Any, float]:
    """Growth of how many calls ended so."""
    return counted("vireo_rpcs_total", grew, method=method, code=code)


def shed(grew: float, reason: str) -> dict[Any, float]:
    """Growth of how many calls for slates were refused before any work."""
    return counted("vireo_rpcs_shed_total", grew, method=RECOMMEND, reason=reason)


def degraded(kind: str, grew: float = 90) -> dict[Any, float]:
    """Growth of how many slates lack something."""
    return counted("vireo_degradations_total", grew, kind=kind)


def _all_of(counts: Iterable[Mapping[Any, float]]) -> dict[Any, float]:
    return {key: grew for each in counts for key, grew in each.items()}


def gateway(*counts: Mapping[Any, float], **gauges: float) -> Facts:
    """Facts of a gateway's page."""
    return Facts(pages=(page("gateway-1", gauges, _all_of(counts)),))


def consumer(*counts: Mapping[Any, float], **gauges: float) -> Facts:
    """Facts of a consumer's page; `gauges` are named without their prefix."""
    full = {f"vireo_consumer_{name}": value for name, value in gauges.items()}
    return Facts(pages=(page("consumer-1", full, _all_of(counts)),))


def process(name: str, **more: Any) -> Process:
    """A process of the stack."""
    return Process(name=name, port=0, log=Path(f"/logs/{name}.log"), **more)


HEALTHY = Facts(
    processes=tuple(process(name, state="healthy", busy=0.05) for name in (*PODS, *_OTHERS)),
    parts=tuple(Part(name, name) for name in ("edge", "envoy", "control", "log", "store", "s3")),
    pages=(
        page(
            "gateway-1",
            {"vireo_features_behind": 0},
            {("vireo_rpcs_total", (("method", RECOMMEND), ("code", "OK"))): 160.0},
        ),
        page("consumer-1", {"vireo_consumer_lease_held": 1, "vireo_consumer_lag_messages": 3}),
    ),
    hosts=tuple(
        Host(name.split("-")[0], f"127.0.0.1:{port}", name, calls=50, all_calls=9000)
        for port, name in enumerate(PODS, start=8120)
    ),
    edges=(Edge(open_requests=3, requests=160),),
    pods=tuple(Pod(name, release="r1", channel="production", origin="s3") for name in PODS),
    slates=(Slate(0.006),),
    channels=(Channel("production", "r1"),),
    certificates=(Certificate("ca.crt", 3000 * DAY), Certificate("edge.crt", 60 * DAY)),
    clocks=(Clock("S3", 0.4, 0.6),),
    disks=(Disk("the log of events", "/log", 50e9, 100e9),),
    machines=(Machine(0.6, 0.5),),
)


def _changed(facts: Facts, kind: str, names: Container[str], changes: dict[str, Any]) -> Facts:
    """Facts with another state of what has these names."""
    changed = (
        replace(each, **changes) if each.name in names else each for each in getattr(facts, kind)
    )
    return replace(facts, **{kind: tuple(changed)})


def with_process(name: str, facts: Facts = HEALTHY, **changes: object) -> Facts:
    """Facts with another state of one process."""
    changed = (
        each.model_copy(update=changes) if each.name == name else each for each in facts.processes
    )
    return replace(facts, processes=tuple(changed))


def killed(name: str, state: str = "restarting", ago: float = 1.0, facts: Facts = HEALTHY) -> Facts:
    """Facts with a process that was killed `ago` seconds ago."""
    return with_process(
        name, facts, state=state, ended="ended with signal SIGKILL", ended_ago=ago, restarts=4
    )


def with_pods(*names: str, **changes: object) -> Facts:
    """The healthy facts with another state of some pods."""
    return _changed(HEALTHY, "pods", names, changes)


def with_hosts(facts: Facts, *names: str, **changes: object) -> Facts:
    """Facts with another state of some pods as Envoy sees them."""
    return _changed(facts, "hosts", names, changes)


def part(name: str, fault: str, facts: Facts = HEALTHY) -> Facts:
    """Facts with a fault of one part."""
    return _changed(facts, "parts", [name], {"fault": fault, "problem": "it says so"})


def also(facts: Facts, *further: Facts) -> Facts:
    """All of these facts."""
    return Facts.merged([facts, *further])


def edge(**counts: float) -> Facts:
    """The healthy facts with other counts at the edge."""
    return replace(HEALTHY, edges=(Edge(**counts),))  # type: ignore[arg-type]


def with_disk(what: str, free: float) -> Facts:
    """The healthy facts with so many bytes free on one disk of 100 GB."""
    return replace(HEALTHY, disks=(Disk(what, "/data", free, 100e9),))


BEHIND = gateway(degraded("features_behind"), vireo_features_behind=1)
"""The facts of a gateway whose features are behind."""
