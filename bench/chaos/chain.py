"""The stack under test: what runs in it, how it is hurt, and whether it is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.chaos.envoy_view import Host, hosts
from bench.chaos.plan import ChaosPlan
from bench.chaos.result import Findings, Judge
from bench.chaos.waiting import seconds_until
from bench.load import SteadyLoad
from server.control.discovery.document import EndpointsDocument
from server.errors import VireoError
from server.rpc.die_with_parent import wrapped
from server.rpc.health import health_problem
from server.stack.processes import ProcessSpec, pod_processes
from server.stack.s3 import access
from server.stack.settings import POD_KINDS, PodKind, StackSettings
from server.stack.state import ProcessState, StackState, running_stack

_POLL = 0.05
_STOP_SECONDS = 10.0
_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Chain:
    """A stack that serves, on this machine."""

    settings: StackSettings
    environment: Mapping[str, str]
    """Under which `vireo` commands mean this stack."""
    dataset: str
    judge: Judge
    plan: ChaosPlan
    tell: Callable[[str], None]
    """Shows a line of progress."""
    endpoints: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the file of endpoints is changed."""

    def findings(self, case: int) -> Findings:
        """An empty list of what a case finds."""
        return Findings(case, self.judge, self.settings.home_folder.logs / "failures.jsonl")

    def load(self, rate: float | None = None, deadline: float | None = None) -> SteadyLoad:
        """Steady load on the edge, by default that of the plan."""
        return SteadyLoad(
            self.settings.edge,
            list(self.judge.watched),
            rate or self.plan.rate,
            deadline or self.plan.deadline,
        )

    # What runs.

    def state(self) -> StackState:
        """What runs now; raises VireoError where the stack has ended."""
        state = running_stack(self.settings.home_folder)
        if state is None:
            raise VireoError(f"the stack of {self.settings.home} has ended; its logs say why")
        return state

    def process(self, name: str) -> ProcessState:
        """One of the stack's processes, by name."""
        return next(each for each in self.state().processes if each.name == name)

    def pods(self, *kinds: PodKind) -> list[str]:
        """The names of the stack's pods of these kinds, of all kinds by default."""
        return [
            f"{kind}-{number}"
            for kind in kinds or POD_KINDS
            for number, _ in enumerate(self.settings.pod_ports(kind), start=1)
        ]

    def ports(self, *kinds: PodKind) -> list[int]:
        """Where the stack's pods of these kinds answer."""
        return [port for kind in kinds or POD_KINDS for port in self.settings.pod_ports(kind)]

    async def host(self, cluster: str, address: str) -> Host | None:
        """A pod as Envoy sees it; None where it doesn't know it."""
        return (await hosts(self.settings.admin_port, cluster)).get(address)

    async def pod_host(self, name: str) -> Host:
        """One of the stack's own pods as Envoy sees it."""
        host = await self.host(name.rpartition("-")[0], f"127.0.0.1:{self.process(name).port}")
        if host is None:
            raise VireoError(f"Envoy knows no {name}")
        return host

    async def well(self) -> bool:
        """Whether every process is healthy, and every pod also in Envoy's eyes."""
        if any(each.state != "healthy" for each in self.state().processes):
            return False
        known = [await hosts(self.settings.admin_port, kind) for kind in POD_KINDS]
        expected = [len(self.settings.pod_ports(kind)) for kind in POD_KINDS]
        return [len(each) for each in known] == expected and all(
            host.healthy for each in known for host in each.values()
        )

    async def until_well(self) -> None:
        """Returns once all is well; raises VireoError where that takes too long."""
        if await seconds_until(self.well, self.plan.patience) > self.plan.patience:
            ill = [f"{each.name}: {each.state}" for each in self.state().processes]
            raise VireoError(f"the stack is not well: {', '.join(ill)}")

    # What is done to it.

    def send(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to a process of the stack; its process id."""
        pid = self.process(name).pid
        if pid is None:
            raise VireoError(f"{name} doesn't run")
        os.kill(pid, number)
        return pid

    async def until_replaced(self, name: str, pid: int) -> float:
        """Seconds until another process is in the place of `pid`, and Envoy sends to it."""

        async def replaced() -> bool:
            process = self.process(name)
            return process.pid not in (None, pid) and process.state == "healthy"

        async def sent_to() -> bool:
            return (await self.pod_host(name)).healthy

        took = await seconds_until(replaced, self.plan.patience)
        return took + await seconds_until(sent_to, self.plan.patience)

    @asynccontextmanager
    async def held_down(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Kills processes, and again each time when the supervisor has started them anew."""

        def kill() -> None:
            for each in self.state().processes:
                if each.name in names and each.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)

        async def keep_killing() -> None:
            while True:
                kill()
                await asyncio.sleep(_POLL)

        kill()
        killing = asyncio.create_task(keep_killing())
        try:
            yield
        finally:
            killing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await killing

    async def until_healthy(self, names: Iterable[str]) -> float:
        """Seconds until the supervisor finds all of these processes healthy."""
        wanted = set(names)

        async def healthy() -> bool:
            return all(
                each.state == "healthy" for each in self.state().processes if each.name in wanted
            )

        return await seconds_until(healthy, self.plan.patience)

    @asynccontextmanager
    async def listed(self, places: Mapping[PodKind, str]) -> AsyncIterator[None]:
        """Has discovery find further pods, by kind and "address:port", until the block ends."""
        await self._list(places, present=True)
        try:
            yield
        finally:
            await self._list(places, present=False)
            for kind, address in places.items():

                async def gone(kind: PodKind = kind, address: str = address) -> bool:
                    return await self.host(kind, address) is None

                await seconds_until(gone, self.plan.patience)

    async def _list(self, places: Mapping[PodKind, str], *, present: bool) -> None:
        path = self.settings.home_folder.stack / "endpoints.json"
        async with self.endpoints:
            document = EndpointsDocument.model_validate_json(path.read_bytes()).model_dump()
            for kind, address in places.items():
                others = [each for each in document[kind]["production"] if each != address]
                document[kind]["production"] = [*others, address] if present else others
            fresh = path.with_suffix(".new")
            fresh.write_text(EndpointsDocument.model_validate(document).model_dump_json(indent=2))
            fresh.replace(path)

    def further_pod(self, kind: PodKind) -> ProcessSpec:
        """One pod more than the stack has of a kind, as the stack would run it."""
        server = access(self.settings)
        assert server is not None, "the stack has made it"
        count = f"{kind}_pods"
        more = self.settings.model_copy(update={count: getattr(self.settings, count) + 1})
        pods = [each for each in pod_processes(more, server) if each.name.startswith(f"{kind}-")]
        return pods[-1]

    @asynccontextmanager
    async def further_process(
        self, spec: ProcessSpec, host: str = "127.0.0.1", before: Sequence[str] = ()
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Runs one more process until the block ends, from the moment when it is healthy.

        Args:
            spec: what to run; its own probe is not used.
            host: the address at which its services' health is asked for.
            before: what goes before its command line.

        Raises:
            VireoError: it ended, or did not become healthy.
        """
        log = self.settings.home_folder.logs / f"{spec.name}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *wrapped([*before, *spec.command]),
                stdout=file,
                stderr=file,
                env={**self.environment, **spec.environment},
                start_new_session=True,
            )
        started = time.monotonic()
        try:
            while await health_problem(f"{host}:{spec.port}", "", _PROBE_SECONDS):
                late = time.monotonic() - started > self.plan.patience
                if process.returncode is not None or late:
                    raise VireoError(f"{spec.name} did not start; see {log}")
                await asyncio.sleep(_POLL)
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
