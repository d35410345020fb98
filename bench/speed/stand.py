"""The stack that is measured: one pod of each kind, and a second gateway that needs no Envoy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.speed.another_pod import another_pod
from bench.speed.asked import Asked, asked, first_viewers
from bench.stack import served, stack_environment
from server.home import Home
from server.releases.manifest import MAX_CANDIDATES
from server.releases.store import ReleaseStore
from server.stack.processes import ProcessSpec, pod_processes
from server.stack.s3 import access, embedded_s3
from server.stack.settings import StackSettings
from server.stack.state import running_stack

_CHANNEL = "production"
SETTINGS = {
    "VIREO_CANDIDATE_PODS": "1",
    "VIREO_RANKING_PODS": "1",
    "VIREO_GATEWAY_PODS": "1",
    # 32 callers on two cores would have some calls shed: here every one is to be answered in full.
    "VIREO_SHEDDING": "false",
    # For the same reason no stage is given up, nor asked for less, where the machine is busy with
    # something else.
    "VIREO_LEAST_CANDIDATES": str(MAX_CANDIDATES),
    "VIREO_FEATURES_TIMEOUT": "5",
    "VIREO_RETRIEVAL_TIMEOUT": "5",
    "VIREO_RANKING_TIMEOUT": "5",
    # The same few viewers are asked for over and over: the viewer tower is to run each time.
    "VIREO_VIEWERS_KEPT": "0",
}


@dataclass(frozen=True)
class Stand:
    """A stack that runs."""

    home: Home
    dataset: str
    release: Path
    """Folder of the release that it serves."""
    features: Path
    """Feast repository of the viewers."""
    edge: str
    """host:port of Envoy's edge."""
    gateway: str
    """host:port of the gateway whose calls go through Envoy."""
    direct: str
    """host:port of the gateway that calls the pods itself; empty where there is none."""
    ranking: str
    """host:port of the ranking pod."""
    pods: Mapping[str, ProcessSpec]
    """How each pod was started: candidate-1, ranking-1, gateway-1."""
    environment: Mapping[str, str]
    """What all of them get besides."""
    pids: Mapping[str, int]
    """Process ids: envoy, gateway, candidate, ranking, and direct where there is such a gateway."""

    def questions(self, viewers: int) -> list[Asked]:
        """A request of each of the data set's first so many viewers, and what must come back."""
        first = first_viewers(self.home, self.dataset, viewers)
        return asked(self.release, self.features, first)


@contextmanager
def stand(home: Home, dataset: str, name: str, *, direct: bool = True) -> Iterator[Stand]:
    """Serves the newest release that was trained on a data set until the block ends.

    Args:
        home: where it was trained.
        dataset: the data set.
        name: of a folder for it, below the home.
        direct: whether there is a gateway that calls the pods without Envoy.

    Raises:
        VireoError: nothing was trained on the data set, or the stack does not start.
    """
    own = Home(home.root / "bench" / name)
    staged = home.trained_release(dataset)
    shutil.rmtree(own.root, ignore_errors=True)
    own.root.mkdir(parents=True)
    for part in ("data", "features"):
        (own.root / part).symlink_to(home.root / part, target_is_directory=True)
    environment = {**stack_environment(own), **SETTINGS}
    settings = StackSettings(
        home=own.root,
        port_base=int(environment["VIREO_PORT_BASE"]),
        edge_port=int(environment["VIREO_EDGE_PORT"]),
        candidate_pods=1,
        ranking_pods=1,
        gateway_pods=1,
    )
    with embedded_s3(settings) as server:
        store = ReleaseStore(server)
        release_id = store.publish(staged).release_id
        store.set_channel(_CHANNEL, release_id, store.read_channel(_CHANNEL))
    with served(own, environment), ExitStack() as extra:
        access_to = access(settings)
        assert access_to is not None, "the stack runs its own S3 server"
        pods = {spec.name: spec for spec in pod_processes(settings, access_to)}
        pids, at = {}, ""
        if direct:
            around_envoy = {
                "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{settings.candidate_pod_port}",
                "VIREO_RANKING_TARGET": f"127.0.0.1:{settings.ranking_pod_port}",
            }
            gateway = extra.enter_context(
                another_pod(pods["gateway-1"], "gateway", {**environment, **around_envoy}, own.logs)
            )
            pids["direct"], at = gateway.pid, gateway.address
        state = running_stack(own)
        assert state is not None, "it is served"
        running = {each.name: each.pid for each in state.processes if each.pid is not None}
        yield Stand(
            home=own,
            dataset=dataset,
            release=staged,
            features=home.features(dataset),
            edge=state.edge,
            gateway=f"127.0.0.1:{settings.gateway_pod_port}",
            direct=at,
            ranking=f"127.0.0.1:{settings.ranking_pod_port}",
            pods=pods,
            environment=environment,
            pids={
                **pids,
                "envoy": running["envoy"],
                "gateway": running["gateway-1"],
                "candidate": running["candidate-1"],
                "ranking": running["ranking-1"],
            },
        )
