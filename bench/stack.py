"""The stack that is measured, and what its processes say of themselves.

It is on a home of its own, so that a running one is left alone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from vireo.ops.cli.own_stack import CHANNEL, VIREO, OwnStack, stack_environment
from vireo.ops.doctor.probes.metrics import parse
from vireo.ops.edge import serving_releases
from vireo.ops.stack.ports import check_ports_free, temporary_server
from vireo.ops.stack.probes import ProcessSpec, grpc_probe
from vireo.ops.stack.processes import pod_processes
from vireo.ops.stack.s3 import access
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, PodKind
from vireo.ops.stack.state import ProcessState, StackState, running_stack
from vireo.server.consumer.archive_files import fetch
from vireo.server.control.mesh import GRPC_SERVICES
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

PATIENCE = 240.0
"""Maximum seconds to wait for anything."""
_COMMAND_SECONDS, _PAGE_SECONDS = 60.0, 5.0


class Stack(OwnStack):
    """A stack on ports of its own, whose processes can be found and killed."""

    def state(self) -> StackState:
        """Return what runs now; raise VireoError if the stack has ended."""
        state = running_stack(self.home)
        if state is None:
            raise VireoError(f"the stack of {self.home.root} has ended; its logs say why")
        return state

    @property
    def s3(self) -> S3Settings:
        """Access to its S3 server."""
        server = access(self.settings)
        assert server is not None, "the stack has its own S3 server"
        return server

    def process(self, name: str) -> ProcessState:
        """Return a process by name; raise VireoError if there is none."""
        for each in self.state().processes:
            if each.name == name:
                return each
        raise VireoError(f"the stack has no process {name}")

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the processes of some kinds, for example "gateway-1"."""
        processes = self.state().processes
        return [each.name for each in processes if each.name.rpartition("-")[0] in kinds]

    def pods(self) -> list[ProcessState]:
        """Return its pods."""
        return [each for each in self.state().processes if each.pool]

    def pod_ports(self, *kinds: str) -> list[int]:
        """Return the ports of its pods, of some kinds or of all."""
        pods = self.pods()
        return [each.port for each in pods if not kinds or each.name.startswith(kinds)]

    def memory(self) -> int:
        """Return the resident bytes of all pods."""
        pids = [pod.pid for pod in self.pods() if pod.pid is not None]
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process, and return its process id."""
        pid = self.process(name).pid
        if pid is None:
            raise VireoError(f"{name} doesn't run")
        os.kill(pid, number)
        return pid

    def unhealthy(self) -> dict[str, str]:
        """Return the states of the processes that aren't healthy, by name."""
        processes = self.state().processes
        return {each.name: each.state for each in processes if each.state != "healthy"}

    def restarted(self, name: str, pid: int) -> bool:
        """Return whether a process that had an id has another one, and is healthy."""
        process = self.process(name)
        return process.pid not in (None, pid) and process.state == "healthy"

    async def kill(self, names: Iterable[str]) -> None:
        """Kill -9 processes, and return once they are healthy again."""
        killed = {name: self.send(name, signal.SIGKILL) for name in names}

        async def back() -> bool:
            return all(self.restarted(name, pid) for name, pid in killed.items())

        await until(back, f"the restart of {', '.join(killed)}")

    async def until_healthy(self) -> None:
        """Return once all processes are healthy; what was killed may still start."""

        async def healthy() -> bool:
            return not self.unhealthy()

        await until(healthy, "the restart of what was killed")

    async def promote(self, release: str) -> float:
        """Promote a release, and return the seconds until all pods serve it."""

        def change() -> None:
            store = ReleaseStore(self.s3)
            store.change_channel(CHANNEL, Change(release), store.read_channel(CHANNEL))

        begun = time.monotonic()
        await asyncio.to_thread(change)
        await self.until_served(release)
        return time.monotonic() - begun

    async def until_served(self, release: str) -> None:
        """Return once all pods serve a release."""

        async def all_serve() -> bool:
            served = await asyncio.to_thread(serving_releases, self.state())
            return all(each and each.release_id == release for each in served.values())

        await until(all_serve, f"the swap to {release}", pause=0.1)

    async def archived(self, kind: str, rows: int) -> list[Path]:
        """Return the archive's files of "slates" or "events" once they have so many rows."""
        files: list[Path] = []

        async def there() -> bool:
            folder = self.home.root / "fetched"
            files[:] = await asyncio.to_thread(fetch, Bucket(self.s3), kind, None, folder)
            return sum(int(pq.read_metadata(file).num_rows) for file in files) >= rows

        await until(there, f"archiving {kind}", pause=0.5)
        return files

    async def vireo(
        self, *command: str, seconds: float = _COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a `vireo` command on it as an operator would; raise VireoError if it hangs."""
        try:
            return await asyncio.to_thread(
                subprocess.run,
                [*VIREO, *command],
                env=dict(self.environment),
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            took = f"vireo {' '.join(command)} took more than {seconds:.0f} s"
            raise VireoError(took) from error

    def further(self, kind: PodKind, number: int = 1) -> ProcessSpec:
        """Return the pod that the stack would run if it had `number` more of a kind."""
        count = f"{kind}_pods"
        layout = "together" if kind == "slate" else self.settings.layout
        changed = {count: getattr(self.settings, count) + number, "layout": layout}
        more = self.settings.model_copy(update=changed)
        pods = pod_processes(more, self.s3)
        return [each for each in pods if each.name.startswith(f"{kind}-")][-1]

    @contextmanager
    def further_process(
        self,
        spec: ProcessSpec,
        service: str = "",
        host: str = "127.0.0.1",
        before: Sequence[str] = (),
    ) -> Iterator[tuple[str, int]]:
        """Run one more process until the block ends, which the supervisor doesn't know.

        Its own probe isn't used: the health of `service` is checked at `host`. `before` is a prefix
        of its command. Yield its host:port and process id once it serves.

        Raises:
            VireoError: it ended, or doesn't serve in time.
        """
        log = self.home.logs / f"{spec.name}.log"
        environment = {**self.environment, **spec.environment}

        def problem() -> str:  # a probe keeps a channel, which is of one event loop
            return asyncio.run(grpc_probe(spec.port, service, host)())

        command = [*before, *spec.command]
        with temporary_server(command, log, problem, environment, start_seconds=PATIENCE) as pid:
            yield f"{host}:{spec.port}", pid

    def further_pod(
        self, kind: PodKind, settings: Mapping[str, str] | None = None, number: int = 1
    ) -> AbstractContextManager[tuple[str, int]]:
        """Run one more pod, with other settings than the stack's; see `further_process`.

        Neither the control plane nor Envoy knows it. The stack's S3 must run.

        Raises:
            PortTakenError: there is one of this `number` already, or something else has its port.
        """
        spec = self.further(kind, number)
        check_ports_free({spec.port: "another `number`"})
        environment = {**spec.environment, **(settings or {})}
        return self.further_process(replace(spec, environment=environment), GRPC_SERVICES[kind])


def linked_home(home: Home, name: str) -> Home:
    """Return an empty home below another's, with the data and features of that one."""
    own = emptied(home, name)
    for part in ("data", "features"):
        (own.root / part).symlink_to((home.root / part).absolute(), target_is_directory=True)
    return own


def built_home(home: Home, name: str, dataset: str, settings: Mapping[str, str]) -> Home:
    """Return an empty home below another's, with features that are built anew: events change them.

    Args:
        home: below which it is, and which has the data set.
        name: of its folder.
        dataset: its name.
        settings: variables of the build.

    Raises:
        VireoError: they can't be built.
    """
    own = emptied(home, name)
    (own.root / "data").symlink_to((home.root / "data").absolute(), target_is_directory=True)
    run_vireo(["features", "build", "--data", dataset], {**stack_environment(own), **settings})
    return own


def emptied(home: Home, name: str) -> Home:
    """Return an empty home below another's."""
    own = Home(home.root / "bench" / name)
    shutil.rmtree(own.root, ignore_errors=True)
    own.logs.mkdir(parents=True)
    return own


def run_vireo(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a `vireo` command, showing its progress, and return what it printed.

    Raises:
        VireoError: it failed.
    """
    done = subprocess.run([*VIREO, *command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise VireoError(f"vireo {' '.join(command)} failed with code {done.returncode}")
    return done.stdout


async def until(
    holds: Callable[[], Awaitable[bool]], what: str, pause: float = 0.02, patience: float = PATIENCE
) -> float:
    """Return the seconds until something holds; raise VireoError if it doesn't."""
    begun = time.monotonic()
    while not await holds():
        if time.monotonic() - begun > patience:
            raise VireoError(f"{what} took more than {patience:.0f} s")
        await asyncio.sleep(pause)
    return time.monotonic() - begun


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all that it has started, in steps of 10 ms.

    Processes that have ended don't count.
    """
    process, total = psutil.Process(pid), 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def memory_of(pid: int, cache: Path) -> float:
    """Return megabytes (10**6 bytes) resident, with all of the files below `cache` that it maps."""
    process = psutil.Process(pid)
    files = [area for area in process.memory_maps() if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    return float(process.memory_info().rss + unread) / 1e6


def shared_memory(pids: Iterable[int]) -> float:
    """Return megabytes (10**6 bytes) resident in all of some processes, shared pages once."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids)) / 1e6


async def counted(ports: Iterable[int]) -> Mapping[str, float]:
    """Return the sum of each metric's samples over labels and pods; `ports` are those of calls.

    Raises:
        VireoError: a pod doesn't answer.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for port in ports:
        page = parse(await page_of(port + METRICS_PORT_OFFSET, "metrics"))
        for name, samples in page.items():
            totals[name] += sum(value for _, value in samples)
    return totals


async def page_of(port: int, path: str) -> str:
    """Return what a port of this machine has at a path; raise VireoError if it doesn't answer."""

    def read() -> str:
        url = f"http://127.0.0.1:{port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=_PAGE_SECONDS) as page:
                text: str = page.read().decode()
        except OSError as error:
            raise VireoError(f"{url} doesn't answer: {error}") from error
        return text

    return await asyncio.to_thread(read)
