"""What the probes found out: values without any judgement, which `diagnose` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vireo.ops.stack.state import ProcessState

SERVICES = ("candidate", "ranking", "gateway")
"""Services of a slate, each with a cluster of Envoy's."""
POD_KINDS = (*SERVICES, "slate")
"""Kinds of pods: a slate pod has all services."""
Fault = Literal["", "refused", "unreachable", "silent", "failed", "locked", "missing"]
"""How a part failed to answer: nothing listens there; no packet comes back; it accepts and stays
silent; it says that it can't; another program has locked it; what it should hold isn't there. Empty
if it answered well."""

Labels = Mapping[str, str]
Samples = Mapping[str, Sequence[tuple[Labels, float]]]
"""Samples of a page of metrics, by name."""


@dataclass(frozen=True)
class Page:
    """The metrics of one process, at both ends of the window."""

    source: str
    """The process's name, or the page's URL."""
    now: Samples = field(default_factory=dict)
    before: Samples = field(default_factory=dict)
    seconds: float = 0.0
    """Seconds between the two; 0 if there is only one."""
    fault: Fault = ""
    problem: str = ""
    read_at: float = 0.0
    """Unix seconds of the later one; 0 if unknown."""

    def has(self, name: str) -> bool:
        """Return whether the metric is there."""
        return name in self.now

    def samples(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Yield the samples of a metric with these labels."""
        yield from _matching(self.now, name, labels)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the metric's samples with these labels."""
        return sum(value for _, value in _matching(self.now, name, labels))

    def increase(self, name: str, **labels: str) -> float:
        """Return by how much that sum grew; a process that restarted began at 0."""
        now = self.value(name, **labels)
        before = sum(value for _, value in _matching(self.before, name, labels))
        return now - before if now >= before else now


def _matching(samples: Samples, name: str, labels: Labels) -> Iterator[tuple[Labels, float]]:
    for found, value in samples.get(name, ()):
        if labels.items() <= found.items():
            yield found, value


class Process(ProcessState):
    """One of a stack's processes, as its supervisor and the kernel see it."""

    ended_ago: float | None = None
    """Seconds since it ended last; None if it never did."""
    stopped: bool = False
    """Whether the kernel has it stopped, as by SIGSTOP."""
    busy: float | None = None
    """Cores that it used during the window; None if unknown."""

    @property
    def kind(self) -> str:
        """Its kind: the name without number and pool."""
        return self.name.split("-")[0]


@dataclass(frozen=True)
class Part:
    """A part that was asked whether it works."""

    name: str
    """"edge", "envoy", "control", "log", "store" or "s3"."""
    where: str
    fault: Fault = ""
    problem: str = ""
    """The fault in words."""


@dataclass(frozen=True)
class Host:
    """A pod as Envoy sees it."""

    cluster: str
    address: str
    """host:port."""
    name: str
    """The pod's name; its address if that is all that is known."""
    flags: frozenset[str] = frozenset()
    """Why it gets no calls, in Envoy's words, for example "failed_active_health_check"."""
    timed_out: bool = False
    """Whether the last health check had no answer in time, rather than a bad one."""
    reach: Fault = ""
    """What a connection from here meets."""
    calls: float = 0
    """Calls within the window."""
    errors: float = 0
    """Those among them that were answered with an error."""
    timeouts: float = 0
    """Those among them that got no answer in time."""
    occupied: float = 0
    """Share of the window in which it had a call under way."""
    latency: float = 0
    """Mean seconds of a call, by Little's law; 0 without calls."""
    all_calls: float = 0
    """Calls since Envoy knows it; the two counts below likewise."""
    all_errors: float = 0
    all_timeouts: float = 0

    @property
    def healthy(self) -> bool:
        """Whether it gets calls."""
        return not self.flags


@dataclass(frozen=True)
class Edge:
    """Envoy's own counts at the edge, within the window."""

    open_requests: float = 0
    """Requests and streams open now."""
    requests: float = 0
    deadlines: float = 0
    """Requests that Envoy ended at their callers' deadlines."""
    refused_streams: float = 0
    """Streams beyond the limit of an address, or of all."""
    refused_calls: float = 0
    """Calls beyond the limit of a caller, or of the cluster."""
    silent: float = 0
    """Requests that were ended since no message arrived."""
    knows_control: bool = True
    """Whether it is connected to the control plane."""


@dataclass(frozen=True)
class Refusal:
    """A resource that an Envoy refuses."""

    envoy: str
    kind: str
    name: str
    words: str


@dataclass(frozen=True)
class Pod:
    """A pod's own word."""

    name: str
    pool: str = "production"
    problem: str = ""
    """Why its health check failed; empty if it serves."""
    fault: Fault = ""
    release: str = ""
    """Id of the release that it serves; empty if none, or unknown."""
    channel: str = ""
    origin: str = ""
    """"s3" or "cache"."""
    failure: str = ""
    """Why the latest attempt to load a release failed."""
    loading: str = ""
    """What it loads, and how far it is."""

    @property
    def kind(self) -> str:
        """Its kind: the name without number and pool."""
        return self.name.split("-")[0]


@dataclass(frozen=True)
class Slate:
    """A slate that was asked for at the edge."""

    seconds: float
    degradations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Channel:
    """What a channel in S3 names."""

    name: str
    release: str
    """Empty if it was never set."""


@dataclass(frozen=True)
class Certificate:
    """A certificate's file."""

    file: str
    ends_in: float
    """Seconds until it ends; negative once it has."""
    problem: str = ""


@dataclass(frozen=True)
class Clock:
    """Another machine's clock."""

    source: str
    ahead: float
    """Seconds by which it is ahead of this one's."""
    uncertainty: float
    """Seconds by which that may be wrong."""


@dataclass(frozen=True)
class Disk:
    """A folder that a part writes to."""

    what: str
    """What lies there, for example "the log of events"."""
    folder: str
    free: float
    """Free bytes of its file system."""
    size: float
    """All bytes of its file system."""


@dataclass(frozen=True)
class Machine:
    """This machine during the window."""

    busy: float
    """Share of its cores in use."""
    free_memory: float
    """Share of its memory that is available."""


@dataclass(frozen=True)
class Unasked:
    """What couldn't be found out."""

    what: str
    why: str


@dataclass(frozen=True)
class Facts:
    """What probes found out; the facts of several are merged into one value."""

    processes: tuple[Process, ...] = ()
    parts: tuple[Part, ...] = ()
    pages: tuple[Page, ...] = ()
    hosts: tuple[Host, ...] = ()
    edges: tuple[Edge, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    pods: tuple[Pod, ...] = ()
    slates: tuple[Slate, ...] = ()
    channels: tuple[Channel, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    clocks: tuple[Clock, ...] = ()
    disks: tuple[Disk, ...] = ()
    machines: tuple[Machine, ...] = ()
    unasked: tuple[Unasked, ...] = ()

    @staticmethod
    def of_part(
        name: str, where: str, fault: Fault = "", problem: str = "", **more: tuple[Any, ...]
    ) -> Facts:
        """Return what was found out of one part, and with it."""
        return Facts(parts=(Part(name, where, fault, problem),), **more)

    @staticmethod
    def merged(many: Iterable[Facts]) -> Facts:
        """Return all facts of several probes as one."""
        some = list(many)
        return Facts(
            **{
                each.name: tuple(item for facts in some for item in getattr(facts, each.name))
                for each in fields(Facts)
            }
        )

    def answered(self) -> bool:
        """Return whether any part was asked, be its answer good or bad."""
        return any(getattr(self, each.name) for each in fields(self) if each.name != "unasked")

    def part(self, name: str) -> Part | None:
        """Return a part; None if it wasn't asked."""
        return next((each for each in self.parts if each.name == name), None)

    def ill(self, name: str) -> Part | None:
        """Return a part that didn't answer well; None if it did, or wasn't asked."""
        part = self.part(name)
        return part if part is not None and part.fault else None

    def of_kind(self, *kinds: str) -> Iterator[Process]:
        """Yield the processes of some kinds."""
        return (each for each in self.processes if each.kind in kinds)

    def samples(self, metric: str, **labels: str) -> Iterator[tuple[Page, Labels, float]]:
        """Yield the samples of a metric with these labels, each with its page."""
        for page in self.pages:
            yield from ((page, found, value) for found, value in page.samples(metric, **labels))

    def value(self, metric: str, **labels: str) -> float:
        """Return the sum of a metric over all pages."""
        return sum(page.value(metric, **labels) for page in self.pages)

    def increase(self, metric: str, **labels: str) -> float:
        """Return by how much that sum grew within the window."""
        return sum(page.increase(metric, **labels) for page in self.pages)

    def increases(self, metric: str, label: str, **labels: str) -> dict[str, float]:
        """Return by how much that sum grew for each value of a label, in order of the values."""
        samples = self.samples(metric, **labels)
        values = sorted({found[label] for _, found, _ in samples if label in found})
        return {each: self.increase(metric, **labels, **{label: each}) for each in values}

    def sources(self, metric: str) -> list[str]:
        """Return the pages on which a metric isn't 0."""
        return [page.source for page in self.pages if page.value(metric)]

    def age(self, metric: str) -> float:
        """Return how many seconds ago the latest of a metric's Unix times was; 0 without one."""
        samples = self.samples(metric)
        ages = [page.read_at - value for page, _, value in samples if page.read_at]
        return min(ages, default=0.0)

    @property
    def seconds(self) -> float:
        """Length of the window of metrics; 0 without one."""
        return max((page.seconds for page in self.pages), default=0.0)
