"""The stack that is measured: one pod of each kind, and a second gateway that needs no Envoy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.process import running, serves
from bench.speed.asked import Asked, asked, first_viewers
from bench.stack import OwnStack, own_home, own_stack
from server.control.mesh import GRPC_SERVICES
from server.home import Home
from server.releases.manifest import MAX_CANDIDATES
from server.stack.processes import pod_processes
from server.stack.s3 import access
from server.stack.settings import PodKind

SETTINGS = {
    "VIREO_CANDIDATE_PODS": "1",
    "VIREO_RANKING_PODS": "1",
    "VIREO_GATEWAY_PODS": "1",
    # 32 callers on two cores would have some calls shed: here every one is to be answered in full.
    "VIREO_SHEDDING": "false",
    # For the same reason no stage is given up, nor asked for less, where the machine is busy with
    # something else.
    "VIREO_MIN_CANDIDATES": str(MAX_CANDIDATES),
    "VIREO_FEATURES_TIMEOUT": "5",
    "VIREO_RETRIEVAL_TIMEOUT": "5",
    "VIREO_RANKING_TIMEOUT": "5",
    # The same few viewers are asked for over and over: the viewer tower is to run each time.
    "VIREO_VIEWER_VECTOR_CACHE_SIZE": "0",
}
_PORT_OFFSET = 5
"""Port of a further pod, after that of the stack's own."""


@dataclass(frozen=True)
class FurtherPod:
    """A pod beside those of a stack, which neither the control plane nor Envoy knows."""

    address: str
    """host:port."""
    pid: int
    started: float
    """Seconds from its process's start until it served."""


@dataclass(frozen=True)
class Stand:
    """A stack that runs."""

    stack: OwnStack
    dataset: str
    release: Path
    """Folder of the release that it serves."""
    pids: Mapping[str, int]
    """Process ids: envoy, gateway, candidate, ranking and direct."""
    direct: str
    """host:port of the gateway that calls the pods itself."""

    @property
    def folder(self) -> Path:
        """For what a measurement leaves."""
        return self.stack.home.root

    @property
    def edge(self) -> str:
        """host:port of Envoy's edge."""
        return self.stack.settings.edge

    @property
    def gateway(self) -> str:
        """host:port of the gateway whose calls go through Envoy."""
        return f"127.0.0.1:{self.stack.settings.gateway_pod_port}"

    def questions(self, viewers: int) -> list[Asked]:
        """Return a request of each of the data set's first so many viewers, with its answer."""
        home = self.stack.home
        first = first_viewers(home, self.dataset, viewers)
        return asked(self.release, home.features(self.dataset), first)


@contextmanager
def stand(home: Home, dataset: str, name: str) -> Iterator[Stand]:
    """Serve the newest release that was trained on a data set until the block ends.

    Args:
        home: where it was trained.
        dataset: the data set.
        name: of a folder for it, below the home.

    Raises:
        VireoError: nothing was trained on the data set, or the stack does not start.
    """
    release = home.trained_release(dataset)
    stack = own_stack(own_home(home, name), release, settings=SETTINGS)
    around_envoy = {
        "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{stack.settings.candidate_pod_port}",
        "VIREO_RANKING_TARGET": f"127.0.0.1:{stack.settings.ranking_pod_port}",
    }
    with stack.running(), further_pod(stack, "gateway", around_envoy) as direct:
        running = {each.name.removesuffix("-1"): each.pid for each in stack.state().processes}
        names = ("envoy", "gateway", "candidate", "ranking")
        pids = {each: pid for each in names if (pid := running[each]) is not None}
        pids["direct"] = direct.pid
        yield Stand(stack, dataset, release, pids, direct.address)


@contextmanager
def further_pod(
    stack: OwnStack,
    kind: PodKind,
    settings: Mapping[str, str] | None = None,
    cores: Sequence[int] = (),
) -> Iterator[FurtherPod]:
    """Run one more pod like one of a stack's until the block ends.

    Args:
        stack: the stack; of its processes only S3 must run.
        kind: of the pod.
        settings: what it gets instead of that pod's.
        cores: where it runs; anywhere if empty.

    Raises:
        VireoError: it does not start.
    """
    server = access(stack.settings)
    assert server is not None, "the stack has its own S3 server"
    pods = {each.name: each for each in pod_processes(stack.settings, server)}
    like = pods[f"{kind}-1"]
    port, name = like.port + _PORT_OFFSET, f"further-{kind}"
    own = {"VIREO_PORT": str(port), "VIREO_POD_NAME": name, "VIREO_METRICS_PORT": "0"}
    environment = {**stack.environment, **like.environment, **(settings or {}), **own}
    address = f"127.0.0.1:{port}"
    begun = time.monotonic()
    ready = partial(serves, address, GRPC_SERVICES[kind])
    log = stack.home.logs / f"{name}.log"
    with running(like.command, log, ready, environment, cores=cores) as pid:
        yield FurtherPod(address, pid, time.monotonic() - begun)
