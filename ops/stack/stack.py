"""A stack from start to end: checks, S3 and log, control plane, pods, Envoy, and the shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime

import structlog

from vireo.ops.stack.envoy import bootstrap, secure
from vireo.ops.stack.nats import external_log, log_process, reachable_log
from vireo.ops.stack.observe import (
    alertmanager_url,
    check_programs,
    observers,
    prometheus_url,
    write_targets,
)
from vireo.ops.stack.ports import check_ports_free
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.processes import (
    consumer_processes,
    control_process,
    endpoints_document,
    envoy_process,
    pod_processes,
)
from vireo.ops.stack.s3 import access, external_s3, lock_path, s3_process
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import (
    StackState,
    environment_file,
    layout_file,
    running_stack,
    stack_lock,
)
from vireo.ops.stack.supervisor import Supervisor
from vireo.server.control.discovery import EndpointsDocument
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.file_lock import LockTakenError, file_lock
from vireo.server.home import keep_private, replace_private
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

log = structlog.get_logger()

_STOP_SECONDS = 4.0
_LOOK_SECONDS = 1.0
_LISTED_SECONDS = 5.0
"""Seconds until Envoy has the pods that the control plane is told of, and has checked them."""
_RETIRE_SECONDS = 30.0
"""Maximum seconds for calls in flight to end on pods that end for good."""
_PAGE_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STORES = {"s3": s3_process, "log": log_process}
"""Embedded stores; their keys are made if missing."""


def needed_ports(settings: StackSettings) -> dict[int, str]:
    """Return each port that a stack binds here, with the setting that moves it."""
    named = external_log()
    return settings.ports(
        embedded_s3=external_s3() is None,
        embedded_log=named is None,
        partitions=(named or EventLogSettings.load()).event_partitions,
    )


class Stack:
    """One run of a stack."""

    def __init__(
        self,
        settings: StackSettings,
        changed: Callable[[StackState], None],
        ready: Callable[[StackState], None],
    ) -> None:
        """Make a stack; nothing is started yet.

        Args:
            settings: what to run.
            changed: called with the stack's state whenever that of a process changes.
            ready: called once, when every process is healthy.
        """
        self._settings = settings
        self._home = settings.home_folder
        self._endpoints = self._home.stack / "endpoints.json"
        self._on_change = changed
        self._on_ready = ready
        self._ready = False
        self._supervisor = Supervisor(self._home.logs, self._write_state, self._fresh)
        self._base = StackState(
            pid=os.getpid(),
            started_at=datetime.now(UTC),
            ready=False,
            channel=settings.channel,
            edge=settings.edge,
            admin_port=settings.admin_port,
            layout=settings.layout,
            secure=settings.secure,
            durable=settings.durable if external_log() is None else None,
            prometheus=prometheus_url(settings),
            alertmanager=alertmanager_url(settings),
        )

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM; a second one kills everything at once.

        SIGHUP is ignored: the stack outlives its terminal.

        Raises:
            PortTakenError: a port that it needs is taken.
            VireoError: another one runs on this home, there is nothing to serve, a process ended
                while it started, S3 can't be used, the release's features are missing, or a
                program is.
        """
        if self._settings.observe:
            check_programs()
        path = lock_path(self._settings)
        s3_lock = file_lock(path) if external_s3() is None else nullcontext()
        with _alone(self._settings), s3_lock:
            keep_private(self._home.root)
            check_ports_free(needed_ports(self._settings))
            stopped = asyncio.ensure_future(self._stop_signal().wait())
            serving = asyncio.ensure_future(self._serve())
            for file in (environment_file(self._home), layout_file(self._home)):
                file.unlink(missing_ok=True)  # of a stack that was killed
            try:
                await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
            finally:
                for task in (stopped, serving):
                    task.cancel()
                await asyncio.gather(stopped, serving, return_exceptions=True)
                await self._supervisor.stop(_STOP_SECONDS)

    async def _serve(self) -> None:
        settings = self._settings
        external = {"s3": external_s3(), "log": external_log()}
        if stores := [_STORES[name](settings) for name, given in external.items() if given is None]:
            await self._supervisor.start(stores, settings.start_timeout)
        # Before what a stack keeps is made: a restore of a backup refuses to replace it.
        await asyncio.to_thread(_check_release, settings, _s3(settings))
        processes = self._specs(settings)
        if settings.secure:
            await asyncio.to_thread(secure, settings)
        config = self._home.stack / "envoy.yaml"
        config.write_text(bootstrap(settings))
        self._list(endpoints_document(settings))
        processes.append(envoy_process(settings, config))
        await self._supervisor.start(processes, settings.start_timeout)
        if settings.observe:
            # Once all serve: the start is no outage.
            await self._supervisor.start(observers(settings, processes), settings.start_timeout)
        self._ready = True
        self._write_state()
        self._on_ready(self._state())
        await asyncio.gather(self._supervisor.watch(), self._follow_layout())

    async def _follow_layout(self) -> None:
        """Move to another layout whenever `vireo layout set` asks for one."""
        file = layout_file(self._home)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not file.exists():
                continue
            asked = refused = ""
            try:
                asked = file.read_text()
                await self._move(asked)
            except (ValueError, VireoError, OSError) as error:
                # Declared policy: what serves goes on serving.
                refused = str(error) or "its pods aren't healthy, or Envoy knows no such pods"
                log.error("the layout stays", reason=refused)
            said = {"layout": self._settings.layout, "layout_refused": refused}
            self._base = self._base.model_copy(update=said)
            self._write_state()
            with suppress(OSError):
                if file.read_text() == asked:  # or another one was asked for meanwhile
                    file.unlink()

    async def _move(self, layout: str) -> None:
        """Move to a layout: its pods serve beside those of the one before, and then alone.

        Raises:
            VireoError: the stack can't have this layout, or one of its pods doesn't start.
            OSError: its pods aren't healthy in time, or a file can't be written.
        """
        before = self._settings
        settings = StackSettings.model_validate({**before.model_dump(), "layout": layout})
        ports = settings.ports(embedded_s3=False)
        if settings.layout == before.layout:
            return
        old, new = (
            [each for each in self._specs(each_of) if each.pool] for each_of in (before, settings)
        )
        check_ports_free({each.port: ports[each.port] for each in new})
        alone, both = endpoints_document(settings), endpoints_document(before).model_dump()
        for kind, pools in alone.model_dump().items():
            both[kind]["production"] += pools["production"]
        try:
            async with asyncio.timeout(settings.start_timeout):
                await self._supervisor.start(new, settings.start_timeout)
                self._list(EndpointsDocument.model_validate(both))
                await self._known_to_envoy({each.port for each in new})
            await self._serve_alone(settings, alone)
        except (VireoError, OSError):
            try:
                await self._serve_alone(before, endpoints_document(before))
            finally:
                await self._supervisor.retire({each.name for each in new}, _RETIRE_SECONDS)
            raise
        self._settings = settings
        await self._supervisor.retire({each.name for each in old}, _RETIRE_SECONDS)

    async def _known_to_envoy(self, ports: Collection[int]) -> None:
        """Return once Envoy finds the pods at these ports healthy: the control plane may be away.

        Without its admin interface nobody knows; then after a while.
        """
        url = f"http://127.0.0.1:{self._settings.admin_port}/clusters"
        unknown = {*ports} if self._settings.admin_port else set()
        while unknown:
            await asyncio.sleep(_LOOK_SECONDS)
            with suppress(OSError):
                page = (await asyncio.to_thread(_page, url)).splitlines()
                for port in [*unknown]:
                    found = [line for line in page if f":{port}::health_flags::" in line]
                    if found and all(line.endswith("::healthy") for line in found):
                        unknown.remove(port)
        await asyncio.sleep(_LISTED_SECONDS)

    async def _serve_alone(self, settings: StackSettings, document: EndpointsDocument) -> None:
        """List the pods of a layout alone, and return once Envoy has no others."""
        self._list(document)
        if settings.observe:
            write_targets(settings, self._specs(settings))
        await asyncio.sleep(_LISTED_SECONDS)

    def _list(self, document: EndpointsDocument) -> None:
        """Tell the control plane which pods there are."""
        replace_private(self._endpoints, f"{document.model_dump_json(indent=2)}\n".encode())

    def _specs(self, settings: StackSettings) -> list[ProcessSpec]:
        """Return the clients of S3, by these settings, the environment and the files of now."""
        server, log = _s3(settings), external_log() or reachable_log(settings)
        return [
            control_process(settings, server, self._endpoints),
            *pod_processes(settings, server, log),
            *consumer_processes(settings, server, log),
        ]

    def _fresh(self, spec: ProcessSpec) -> ProcessSpec:
        """Return what to run instead of a process that ended, by the settings of now."""
        file, before = environment_file(self._home), dict(os.environ)
        try:
            if file.exists():
                os.environ.update(json.loads(file.read_bytes()))
            store = _STORES.get(spec.name)
            fresh = [store(self._settings)] if store else self._specs(self._settings)
            file.unlink(missing_ok=True)
        except (VireoError, OSError, ValueError) as error:
            # Declared policy: what ran before goes on running until the settings are right, or
            # the disk has room.
            os.environ.clear()
            os.environ.update(before)
            log.error("settings refused", process=spec.name, reason=str(error))
            return spec
        return next((each for each in fresh if each.name == spec.name), spec)

    def _state(self) -> StackState:
        processes = tuple(self._supervisor.statuses)
        return self._base.model_copy(update={"processes": processes, "ready": self._ready})

    def _write_state(self) -> None:
        state = self._state()
        self._on_change(state)
        try:
            state.write(self._home)
        except OSError as error:
            # Declared policy: a full disk stops `vireo status`, not the stack.
            log.warning("the state file can't be written", reason=str(error))

    def _stop_signal(self) -> asyncio.Event:
        """Return an event that the first signal sets; the second kills everything and exits."""
        stop = asyncio.Event()

        def on_signal(number: signal.Signals) -> None:
            if stop.is_set():
                self._supervisor.kill()
                os._exit(128 + number)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal, number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return stop


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_PAGE_SECONDS) as answer:  # noqa: S310  # our own
        text: str = answer.read().decode()
    return text


@contextmanager
def _alone(settings: StackSettings) -> Iterator[None]:
    """Hold the stack's lock; raise VireoError if another stack holds it."""
    home = settings.home_folder
    try:
        with file_lock(stack_lock(home)):
            yield
    except LockTakenError as error:
        other = running_stack(home)
        serving = (
            f"; its edge is {other.edge}, and it serves what channel {other.channel} names within "
            "seconds of a promotion"
            if other
            else ""
        )
        raise VireoError(
            f"a stack runs on {home.root} already (process {error.holder}){serving}. Stop it "
            "first, with: vireo down, or run another beside it: set VIREO_HOME, "
            "VIREO_EDGE_PORT and VIREO_PORT_BASE"
        ) from error


def _s3(settings: StackSettings) -> S3Settings:
    """Return how to reach S3, by the environment and the files of now."""
    server = external_s3() or access(settings)
    if server is None:
        raise VireoError("the keys of S3 are gone; make others with: vireo restart s3")
    return server


def _check_release(settings: StackSettings, server: S3Settings) -> None:
    """Raise VireoError without a release or its features, before pods wait in vain."""
    store = ReleaseStore(server)
    try:
        channel = store.read_channel(settings.channel)
    except NotInStoreError:
        channel = None  # nothing was ever published: the bucket isn't there yet
    if channel is None:
        raise VireoError(
            f"channel {settings.channel} names no release yet; "
            "publish what you trained with: vireo release publish"
        )
    dataset = store.manifest(channel.release_id).dataset
    folder = settings.home_folder.features(dataset)
    if not (folder / "feature_store.yaml").exists():
        raise VireoError(
            f"release {channel.release_id} needs the features of data set {dataset}, and "
            f"{folder} has none; build them with: vireo features build --data {dataset}"
        )
