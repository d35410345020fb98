"""The stack that is measured: one pod of each kind, and a second gateway that needs no Envoy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.process import running, serves
from bench.speed.asked import checked_target, questions_of
from bench.speed.h2load import Target
from bench.stack import OwnStack, own_home, own_stack
from vireo.ops.stack.settings import PodKind
from vireo.server.control.mesh import GRPC_SERVICES
from vireo.server.home import Home

SETTINGS = {
    "VIREO_CANDIDATE_PODS": "1",
    "VIREO_RANKING_PODS": "1",
    "VIREO_GATEWAY_PODS": "1",
    # 32 callers on two cores would have some calls shed, and here each must be answered in full.
    "VIREO_SHEDDING": "false",
    # For the same reason no stage is skipped if the machine is busy otherwise.
    "VIREO_FEATURES_TIMEOUT": "5",
    "VIREO_RETRIEVAL_TIMEOUT": "5",
    "VIREO_RANKING_TIMEOUT": "5",
    # The same few viewers are asked for over and over, and the viewer tower must run each time.
    "VIREO_VIEWER_VECTOR_CACHE_SIZE": "0",
}


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
    home: Home
    """Home of the release that it serves."""
    dataset: str
    pids: Mapping[str, int]
    """Process ids of envoy, gateway, candidate, ranking, direct and others."""
    direct: str
    """host:port of the gateway that calls the pods itself."""

    @property
    def folder(self) -> Path:
        """Folder for the files of a measurement."""
        return self.stack.home.root

    @property
    def edge(self) -> str:
        """host:port of Envoy's edge."""
        return self.stack.settings.edge

    @property
    def release(self) -> Path:
        """Folder of the release that it serves."""
        return self.home.trained_release(self.dataset)

    async def edge_target(self, viewers: int) -> Target:
        """Return the edge, after it has answered the questions of the first viewers right."""
        questions = questions_of(self.home, self.dataset, viewers)
        return await checked_target("the edge", self.edge, questions, self.folder)


@contextmanager
def stand(home: Home, dataset: str, name: str) -> Iterator[Stand]:
    """Serve a data set's newest release until the block ends, in a home `name` below `home`."""
    release = home.trained_release(dataset)
    stack = own_stack(own_home(home, name), release, settings=SETTINGS)
    around_envoy = {
        "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{stack.settings.candidate_pod_port}",
        "VIREO_RANKING_TARGET": f"127.0.0.1:{stack.settings.ranking_pod_port}",
    }
    with stack.running(), further_pod(stack, "gateway", around_envoy) as direct:
        processes = stack.state().processes
        pids = {each.name.removesuffix("-1"): each.pid for each in processes if each.pid}
        yield Stand(stack, home, dataset, {**pids, "direct": direct.pid}, direct.address)


@contextmanager
def further_pod(
    stack: OwnStack,
    kind: PodKind,
    settings: Mapping[str, str] | None = None,
    cores: Sequence[int] = (),
) -> Iterator[FurtherPod]:
    """Run one more pod of a stack, whose S3 must run, until the block ends.

    Args:
        stack: the stack.
        kind: of the pod.
        settings: override the stack's.
        cores: where it runs; anywhere if empty.
    """
    spec = stack.further_pod(kind)
    environment = {**stack.environment, **spec.environment, **(settings or {})}
    address, log = f"127.0.0.1:{spec.port}", stack.home.logs / f"{spec.name}.log"
    ready = partial(serves, address, GRPC_SERVICES[kind])
    begun = time.monotonic()
    with running(spec.command, log, ready, environment, cores=cores) as pid:
        yield FurtherPod(address, pid, time.monotonic() - begun)
