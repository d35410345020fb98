"""The stack under test: what runs in it, how it is hurt, and whether it is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

from bench.chaos.findings import ChaosPlan, Findings, Judge
from bench.chaos.places import small_log_disk, unmount_log_disk
from bench.load import SteadyLoad, beside, closed_load
from bench.replay import Replay, opened_replay
from bench.site import Recorder
from bench.stack import Stack, built_home, page_of
from tests.builders.redis import RunningRedis, running_redis
from vireo.ops.doctor.facts import Host
from vireo.ops.doctor.probes.envoy import CLUSTERS, Hosts, hosts_of
from vireo.ops.stack.nats import reachable_log
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.settings import PodKind, StackSettings
from vireo.server.control.discovery import EndpointsDocument
from vireo.server.errors import VireoError
from vireo.server.home import Home, replace_private
from vireo.training.features.watches import load_watches

_POLL = 0.05
_CALLERS = 8
"""Closed-loop callers: enough to keep the stack busy, too few to be shed."""
_KNOWN_VIDEOS, _UNKNOWN_VIDEOS = 200, 50
_LOG_OUTAGE = 60.0


_UNKNOWN = Host("", "", "", frozenset({"unknown"}))
"""A pod that Envoy doesn't know."""


@dataclass(frozen=True)
class Chain:
    """A stack that serves, on this machine, while a case is run."""

    stack: Stack
    dataset: str
    viewers: Sequence[str]
    """Ids to ask for."""
    plan: ChaosPlan
    findings: Findings
    videos: Sequence[str]
    """Ids of videos of events: some that the release has, and some that nobody knows."""
    redis: RunningRedis | None = None
    """Its online store, unless that is SQLite."""

    @property
    def settings(self) -> StackSettings:
        """The stack's."""
        return self.stack.settings

    def load(self, rate: float | None = None, deadline: float | None = None) -> SteadyLoad:
        """Return steady load on the edge, by default that of the plan."""
        plan, edge = self.plan, self.settings.edge
        return SteadyLoad(edge, self.viewers, rate or plan.rate, deadline or plan.deadline)

    def recorder(
        self, rate: float | None = None, viewers: int | None = None, size: int = 20
    ) -> Recorder:
        """Return a site that records events of viewers of its own; see `Recorder`."""
        plan, edge = self.plan, self.settings.edge
        return Recorder(
            edge,
            self.videos,
            rate or plan.event_rate,
            _LOG_OUTAGE + plan.patience,
            viewers=viewers or plan.viewers,
            size=size,
        )

    def replay(self) -> AbstractAsyncContextManager[Replay]:
        """Return the stack's log and rows, to be opened."""
        url = self.redis.url if self.redis else ""
        return opened_replay(self.stack.home, self.dataset, reachable_log(self.settings), url)

    async def sustainable_rate(self) -> float:
        """Return how many full answers a second a few callers get, and show it."""
        seconds = 2 * self.plan.quiet
        answers = await closed_load(self.settings.edge, self.viewers, _CALLERS, seconds)
        rate = sum(map(self.findings.judge.full, answers)) / seconds
        self.findings.progress(f"{rate:.0f} requests a second are sustainable")
        return rate

    def for_case(self, number: int, console: Console) -> Chain:
        """Return the chain with findings of a case, which are shown on a console."""

        def progress(line: str) -> None:
            console.print(f"{number}: {line}", soft_wrap=True)

        judge, log = self.findings.judge, self.findings.log
        findings = Findings(number, judge, log, self.plan.patience, progress)
        return replace(self, findings=findings)

    # What runs.

    async def hosts(self) -> Hosts:
        """Return production's pods as Envoy sees them; raise VireoError if it doesn't answer.

        A slate pod, which is in each cluster, is seen as a gateway.
        """
        known = hosts_of(await page_of(self.settings.admin_port, CLUSTERS))
        clusters = {_cluster(kind) for kind in self.settings.kinds}
        return {place: host for place, host in known.items() if place[0] in clusters}

    async def pod_host(self, name: str) -> Host:
        """Return one of the stack's own pods as Envoy sees it."""
        address = f"127.0.0.1:{self.stack.process(name).port}"
        return (await self.hosts()).get((_cluster(name.rpartition("-")[0]), address), _UNKNOWN)

    async def requests(self, places: Mapping[PodKind, str]) -> dict[PodKind, float]:
        """Return the calls that pods got so far, given their "address:port" by kind."""
        hosts = await self.hosts()
        return {
            kind: hosts.get((_cluster(kind), at), _UNKNOWN).all_calls for kind, at in places.items()
        }

    async def until_used(
        self, places: Mapping[PodKind, str], otherwise: str, calls: int = 1
    ) -> float:
        """Return the seconds until each of these pods has got more calls; see `Findings.until`."""
        before = await self.requests(places)

        async def used() -> bool:
            now = await self.requests(places)
            return all(now[kind] >= before[kind] + calls for kind in places)

        return await self.findings.until(used, otherwise)

    async def until_pod(
        self,
        name: str,
        holds: Callable[[Host], bool],
        otherwise: str,
        patience: float | None = None,
    ) -> float:
        """Return the seconds until `holds` of one of the stack's own pods; see `Findings.until`."""

        async def held() -> bool:
            return holds(await self.pod_host(name))

        return await self.findings.until(held, otherwise, patience)

    async def until_well(self) -> None:
        """Return once every process is healthy, and every pod also in Envoy's eyes.

        Raises:
            VireoError: that takes too long.
        """

        async def well() -> bool:
            known = (await self.hosts()).values()
            return (
                not self.stack.unhealthy()
                and sorted(each.address for each in known)
                == sorted(f"127.0.0.1:{pod.port}" for pod in self.stack.pods())
                and all(each.healthy for each in known)
            )

        if await self.findings.until(well) > self.plan.patience:
            ill = ", ".join(f"{name}: {state}" for name, state in self.stack.unhealthy().items())
            raise VireoError(f"the stack is not well: {ill}")

    async def until_healthy(self, names: Iterable[str]) -> None:
        """Return once some processes are healthy; the case fails if that takes too long."""
        names = frozenset(names)

        async def healthy() -> bool:
            return names.isdisjoint(self.stack.unhealthy())

        await self.findings.until(healthy, f"not all of {', '.join(sorted(names))} came back")

    # What is done to it.

    async def replaced(self, name: str, number: signal.Signals) -> None:
        """Send a signal that ends a pod, and return once Envoy calls its successor."""
        pid = self.stack.send(name, number)

        async def back() -> bool:
            return self.stack.restarted(name, pid)

        took = await self.findings.until(back, f"{name} did not come back")
        called = await self.until_pod(name, lambda h: h.healthy, f"{name} got no calls again")
        self.findings.progress(f"{name} back after {took + called:.1f} s")

    @asynccontextmanager
    async def held_down(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Kill processes, and again each time that the supervisor has restarted them.

        At the block's end, wait for pods to be back.
        """
        names = frozenset(names)

        def kill() -> None:
            for each in self.stack.state().processes:
                if each.name in names and each.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)

        async def keep_killing() -> None:
            while True:
                await asyncio.sleep(_POLL)
                kill()

        kill()
        async with beside(keep_killing()):
            yield
        await self.until_healthy(names & {pod.name for pod in self.stack.pods()})

    @asynccontextmanager
    async def listed(self, places: Mapping[PodKind, str]) -> AsyncIterator[None]:
        """Let discovery find further pods, by kind and "address:port", until the block ends."""
        self._list(places, present=True)
        try:
            yield
        finally:
            self._list(places, present=False)

            async def gone() -> bool:
                clusters = {(_cluster(kind), at) for kind, at in places.items()}
                return not (await self.hosts()).keys() & clusters

            await self.findings.until(gone)

    def _list(self, places: Mapping[PodKind, str], *, present: bool) -> None:
        path = self.stack.home.stack / "endpoints.json"
        document = EndpointsDocument.model_validate_json(path.read_bytes()).model_dump()
        for kind, address in places.items():
            others = [each for each in document[kind]["production"] if each != address]
            document[kind]["production"] = [*others, address] if present else others
        changed = EndpointsDocument.model_validate(document)
        replace_private(path, changed.model_dump_json(indent=2).encode())

    @asynccontextmanager
    async def further_process(
        self, spec: ProcessSpec, host: str = "127.0.0.1", before: Sequence[str] = ()
    ) -> AsyncIterator[None]:
        """Run one more process until the block ends; see `Stack.further_process`."""
        process = self.stack.further_process(spec, host=host, before=before)
        await asyncio.to_thread(process.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


def _cluster(kind: str) -> str:
    """Return the cluster of Envoy's in which calls of slates reach a kind of pod."""
    return "gateway" if kind == "slate" else kind


@contextmanager
def running_chain(
    home: Home,
    dataset: str,
    plan: ChaosPlan,
    *,
    on_redis: bool,
    bench: str = "chaos",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Chain]:
    """Run a stack on a home of its own, whose log has a small disk if this process may mount one.

    Args:
        home: has a release that was trained on the data set.
        dataset: its name.
        plan: of the chain.
        on_redis: whether the online store is Redis rather than SQLite.
        bench: name of its folder below the home.
        settings: further variables of the stack.

    Raises:
        VireoError: it can't be set up or started.
    """
    release, name = home.trained_release(dataset), f"{bench}/stack"
    unmount_log_disk(Home(home.root / "bench" / name))
    with contextlib.ExitStack() as resources:
        redis, variables = None, {"VIREO_LAYOUT": plan.layout, **(settings or {})}
        if on_redis:
            folder = home.root / "bench" / bench / "redis"
            shutil.rmtree(folder, ignore_errors=True)
            redis = resources.enter_context(running_redis(folder))
            variables |= {"VIREO_ONLINE_STORE": "redis", "VIREO_REDIS_URL": redis.url}
        own = built_home(home, name, dataset, variables)
        stack = Stack.of(own, release, settings=variables)
        if redis:
            redis.save()
        resources.enter_context(small_log_disk(own))
        resources.enter_context(stack.running())
        judge = _judge(own, dataset, plan.viewers)
        known = sorted(frozenset[str]().union(*judge.watched.values()))[:_KNOWN_VIDEOS]
        videos = [*known, *map("unheard-of-{}".format, range(_UNKNOWN_VIDEOS))]
        findings = Findings(0, judge, own.logs / "failures.jsonl", plan.patience)
        yield Chain(stack, dataset, list(judge.watched), plan, findings, videos, redis)


def _judge(home: Home, dataset: str, viewers: int) -> Judge:
    """Return the judge of the viewers to ask for: the data set's first, then strangers."""
    watches = load_watches(home, dataset)
    watches = watches[watches["part"] != "test"]  # gateways don't know what is held out
    by_viewer = watches.groupby("viewer_id", sort=False)["video_id"].agg(frozenset).head(viewers)
    known = {str(viewer): watched for viewer, watched in by_viewer.items()}
    strangers = (f"stranger-{number}" for number in range(viewers - len(known)))
    return Judge({**known, **dict.fromkeys(strangers, frozenset())})
