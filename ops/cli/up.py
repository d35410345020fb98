"""`vireo up`: run the whole stack on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.control import control_target, summary
from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import (
    document_of,
    print_json,
    print_result,
    print_table,
    remark,
    table_of,
)
from vireo.ops.doctor.conditions import ago
from vireo.ops.edge import EnvoyStatus, envoys_of, operator_tls, require_stack, serving_releases
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import Layout, ProcessState, StackState, move, stack_lock
from vireo.ops.stack.state import restart as restart_processes
from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.file_lock import holder
from vireo.server.home import Home
from vireo.server.security.folder import SecurityFolder
from vireo.v1.release_pb2 import GetServingReleaseResponse

Releases = Mapping[str, GetServingReleaseResponse | None]
_POLL_SECONDS = 0.1
_MAX_TAKEDOWNS_AGE = 60.0
"""Seconds; while the log responds they are younger."""
_STYLES = {
    "starting": "yellow",
    "healthy": "green",
    "unhealthy": "red",
    "restarting": "red",
    "stopped": "dim",
}


def up(
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Require certificates of processes and tokens of callers; creates certificates.",
        ),
    ] = False,
    observe: Annotated[
        bool,
        typer.Option(
            "--observe",
            help="Run Prometheus and Alertmanager too, with the rules of deploy/observability.",
        ),
    ] = False,
    durable: Annotated[
        bool,
        typer.Option("--durable", help="Have each event on disk before it is acknowledged."),
    ] = False,
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="Make slates in separate candidate, ranking and gateway pods, or together in "
            "slate pods that are all three, for 40% less on one machine. VIREO_LAYOUT, or "
            "separate, by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the channel's release: S3, pods, gateway and Envoy, supervised, until Ctrl-C.

    It goes on if its terminal is closed: end it with `vireo down`. Each process logs to its own
    file, which `vireo logs` shows.

    Ports and pod counts are settings, for example VIREO_EDGE_PORT, VIREO_PORT_BASE and
    VIREO_CANDIDATE_PODS.

    vireo up --layout together
    """
    switched = {"secure": secure, "observe": observe, "durable": durable, "layout": layout}
    run_stack_in_terminal(show_endpoints, **{name: each for name, each in switched.items() if each})
    remark("stopped")


def run_stack_in_terminal(ready: Callable[[StackState], None], **chosen: bool | str) -> None:
    """Run a stack until a signal, showing one line per process.

    Args:
        ready: called once the stack serves.
        chosen: fields of StackSettings that are so even if the settings say otherwise.
    """
    settings = StackSettings.load().model_copy(update=chosen)
    console = Console()
    if console.is_terminal:
        tables = [Live(console=console, auto_refresh=False)]

        def show(state: StackState) -> None:
            tables[-1].start()
            tables[-1].update(process_lines(state.processes), refresh=True)

        def ready_after_table(state: StackState) -> None:
            # What others print below a table, it takes for its own lines, and erases.
            tables[-1].stop()
            ready(state)
            tables.append(Live(console=console, auto_refresh=False))

        try:
            asyncio.run(Stack(settings, _while_seen(show), _while_seen(ready_after_table)).run())
        finally:
            if not os.isatty(1):  # closed since, and the table writes once more as it ends
                _show_nothing()
            tables[-1].stop()
    else:
        asyncio.run(Stack(settings, _while_seen(_ChangePrinter()), _while_seen(ready)).run())


def _while_seen(show: Callable[[StackState], None]) -> Callable[[StackState], None]:
    """Return a function that shows a state, and from then on nothing once the terminal is gone."""

    def show_or_leave(state: StackState) -> None:
        try:
            show(state)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            _show_nothing()

    return show_or_leave


def _show_nothing() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)


layout = typer.Typer(no_args_is_help=True)


@layout.command("set")
def set_layout(
    wanted: Annotated[
        Layout,
        typer.Argument(metavar="LAYOUT", help="separate or together; see: vireo up --help"),
    ],
    as_json: JsonOption = False,
) -> None:
    """Move the running stack to another layout: no call fails, and none is degraded.

    The pods of the new layout serve beside those of the old, and then alone. It holds until the
    stack ends; VIREO_LAYOUT or `vireo up --layout` says with which the next one begins.

    vireo layout set together
    """
    settings = StackSettings.load()
    move(settings.home_folder, wanted, settings.start_timeout)
    where = "together" if wanted == "together" else "in separate pods"
    print_result({"layout": wanted}, f"slates are made {where}", as_json)


def down(
    seconds: Annotated[
        float, typer.Option(min=0, help="Maximum seconds to wait until all has ended.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """End the stack that runs on this home, as Ctrl-C does; calls under way are answered.

    vireo down
    """
    home = Home.current()
    pid = holder(stack_lock(home))
    if pid is None:
        raise NoAnswerError(f"no stack runs on {home.root}")
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while holder(stack_lock(home)) == pid:
        if time.monotonic() > deadline:
            raise VireoError(f"process {pid} hasn't ended within {seconds:g} s; see: vireo status")
        time.sleep(_POLL_SECONDS)
    print_result({"pid": pid, "stopped": True}, "stopped", as_json)


def restart(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROCESS",
            help="Processes, or kinds: gateway-1, candidate; all but S3, log, Envoy if absent.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restart processes of the running stack one after the other: of two of a kind one serves.

    `VIREO_…` variables that are set here replace those that the stack was started with.

    vireo restart gateway ranking-1
    """
    settings = StackSettings.load()
    restarted = restart_processes(settings.home_folder, names or [], settings.start_timeout)
    print_result({"restarted": restarted}, f"restarted {', '.join(restarted)}", as_json)


class _ChangePrinter:
    """Prints a line for each change of a process's state, for logs and pipes."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, state: StackState) -> None:
        for process in state.processes:
            if self._known.get(process.name) != process.state:
                self._known[process.name] = process.state
                failed = process.problem and process.state != "starting"
                detail = f": {process.problem}" if failed else ""
                typer.echo(f"{process.name} {process.state}{detail}")


def process_lines(processes: tuple[ProcessState, ...]) -> Group:
    """Return a line per process, followed by their problems."""
    problems = [
        Text(f"{process.name}: {process.problem}", style="dim")
        for process in processes
        if process.problem and process.state != "starting"
    ]
    return Group(_table(processes), *problems)


def _table(processes: tuple[ProcessState, ...], releases: Releases | None = None) -> Table:
    """Return a table of processes, with the releases that they serve if these are known."""
    numbers = ("pid", "port", "restarts")
    last = () if releases is None else ("release",)
    table = table_of("process", "state", *numbers, *last, numbers=numbers, tight=bool(last))
    for process in processes:
        release = (releases or {}).get(process.name)
        table.add_row(
            process.name,
            Text(process.state, style=_STYLES[process.state]),
            str(process.pid or ""),
            str(process.port),
            str(process.restarts or ""),
            *((release.release_id if release else "",) if last else ()),
        )
    return table


def show_endpoints(state: StackState) -> None:
    """Print the stack's endpoints, with example requests to paste into a shell in this folder."""
    host, _, port = state.edge.rpartition(":")
    edge = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    vireo, grpcurl, python = map(_as_typed, ("vireo", "grpcurl", "python"))
    logs = f"Logs: {state.processes[0].log.parent}. Stop with Ctrl-C.\n"
    admin = f"; Envoy's admin at 127.0.0.1:{state.admin_port}" if state.admin_port else ""
    ready = f"\nReady. gRPC, gRPC-Web and REST answer at {edge}{admin}."
    if state.prometheus:
        ready += f"\nPrometheus is at {state.prometheus}, Alertmanager at {state.alertmanager}."
    if state.durable is not None:
        lost = "and a power cut" if state.durable else "not a power cut (see --durable)"
        ready += f"\nEvents that were acknowledged outlive a crash of every process, {lost}."
    if state.secure:
        ca = SecurityFolder(Home.current().security).authority
        # Not by reflection, which needs another scope.
        descriptors = _from_here(Path(str(files("vireo") / "descriptors.binpb")))
        typer.echo(f"""{ready}
They use TLS, and everything but health checks needs a token.

  export VIREO_CA={ca} VIREO_TOKEN=$({vireo} tokens make --scope vireo.read)
  {vireo} recommend 1 --target {edge}
  curl --cacert $VIREO_CA -H "authorization: Bearer $VIREO_TOKEN" \\
    'https://{edge}/v1/viewers/1/recommendations?page_size=10'
  {grpcurl} -cacert $VIREO_CA -H 'authorization: Bearer ${{VIREO_TOKEN}}' -expand-headers \\
    -protoset {descriptors} -d '{{"viewerId": "1"}}' \\
    {edge} vireo.v1.RecommendationService/Recommend

{logs}""")
        return
    typer.echo(f"""{ready}

  {vireo} recommend 1
  curl 'http://{edge}/v1/viewers/1/recommendations?page_size=10'
  {grpcurl} -plaintext -d '{{"viewerId": "1"}}' {edge} vireo.v1.RecommendationService/Recommend
  {python} -c '
import grpc
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc
stub = recommendation_pb2_grpc.RecommendationServiceStub(grpc.insecure_channel("{edge}"))
print(stub.Recommend(recommendation_pb2.RecommendRequest(viewer_id="1"), timeout=1))'

{logs}""")


def _as_typed(program: str) -> str:
    """Return how to call this environment's program from here: by name if it is on PATH."""
    beside = Path(sys.executable).parent / program
    found = shutil.which(program)
    if not beside.exists() or (found and Path(found) == beside):
        return program
    return _from_here(beside)


def _from_here(path: Path) -> str:
    """Return a path as typed in the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def status(as_json: JsonOption = False) -> None:
    """Show every process of the running stack; exit with 3 if no stack runs.

    vireo status
    """
    state = require_stack("set VIREO_HOME to the home of the stack you mean")
    releases, envoys = serving_releases(state), list[EnvoyStatus]()
    with suppress(VireoError):  # the table shows the control plane's state
        envoys = envoys_of(control_target(state), operator_tls(state))
    if not as_json:
        print_status(state, releases, envoys)
        return
    document = document_of(state)
    for process in document["processes"]:
        release = releases.get(process["name"])
        process["release"] = MessageToDict(release) if release else None
    print_json({**document, "envoys": document_of(envoys)})


def print_status(state: StackState, releases: Releases, envoys: list[EnvoyStatus]) -> None:
    """Print a line per process, then their problems, and each Envoy's resources."""
    print_table(_table(state.processes, releases))
    for process in state.processes:
        if remark := _remark(process, releases.get(process.name)):
            typer.echo(f"{process.name}: {remark}")
    if envoys:
        typer.echo(summary(envoys))
    ready = "ready" if state.ready else "starting"
    typer.echo(f"{ready}; edge {state.edge}, channel {state.channel}, supervisor {state.pid}")


def _remark(process: ProcessState, release: GetServingReleaseResponse | None) -> str:
    """Return a process's problem; empty if there is none."""
    if process.problem or release is None:
        return process.problem
    if release.last_failure:
        return release.last_failure
    at = release.takedowns_as_of
    seconds = time.time() - at.seconds
    if release.HasField("takedowns_as_of") and seconds > _MAX_TAKEDOWNS_AGE:
        as_of = f"{at.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
        return f"takedowns as of {as_of}, {ago(seconds)} old: the log is away"
    if release.origin == "cache":
        return "its release is from the cache because the store could not be reached"
    return ""
