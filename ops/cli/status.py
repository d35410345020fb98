"""`vireo status`: running processes, their state, and the release that each pod serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.doctor.finding import ago
from vireo.ops.edge import operator_tls, require_stack, serving_releases
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.envoys import EnvoyStatus
    from vireo.ops.stack.state import ProcessState, StackState
    from vireo.v1.release_pb2 import GetServingReleaseResponse

_MAX_TAKEDOWNS_AGE = 60.0
"""Seconds; while the log responds they are younger."""


def status(
    as_json: AsJson = False,
) -> None:
    """Show every process of the running stack; exit with 1 if no stack runs."""
    state = require_stack("set VIREO_HOME to the home of the stack you mean")
    releases = serving_releases(state)
    envoys = _envoys_of(state)
    if as_json:
        _print_json(state, releases, envoys)
    else:
        print_status(state, releases, envoys)


def _envoys_of(state: StackState) -> list[EnvoyStatus]:
    """Return each Envoy's status; empty while the control plane doesn't answer."""
    from vireo.ops.cli.control import control_target
    from vireo.ops.envoys import envoys_of

    try:
        return envoys_of(control_target(state), operator_tls(state))
    except VireoError:
        return []  # the table shows the control plane's state


def _print_json(
    state: StackState,
    releases: Mapping[str, GetServingReleaseResponse | None],
    envoys: list[EnvoyStatus],
) -> None:
    from dataclasses import asdict

    fields = ("release_id", "origin", "last_failure")
    document = state.model_dump(mode="json")
    for process in document["processes"]:
        release = releases.get(process["name"])
        process["release"] = {name: getattr(release, name) for name in fields} if release else None
    document["envoys"] = [asdict(envoy) for envoy in envoys]
    print_json(document)


def print_status(
    state: StackState,
    releases: Mapping[str, GetServingReleaseResponse | None],
    envoys: list[EnvoyStatus],
) -> None:
    """Print a line per process, then their problems, and each Envoy's resources."""
    from vireo.ops.cli.control import summary
    from vireo.ops.cli.up import state_text

    numbers = ("pid", "port", "restarts")
    table = table_of("process", "state", *numbers, "release", numbers=numbers, tight=True)
    for process in state.processes:
        release = releases.get(process.name)
        table.add_row(
            process.name,
            state_text(process.state),
            str(process.pid or ""),
            str(process.port),
            str(process.restarts or ""),
            release.release_id if release else "",
        )
    print_table(table)
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
    if old := _old_takedowns(release):
        return old
    if release.origin == "cache":
        return "its release is from the cache because the store could not be reached"
    return ""


def _old_takedowns(release: GetServingReleaseResponse) -> str:
    """Return up to when a process knows which videos are removed; empty if that is now."""
    from datetime import UTC

    at = release.takedowns_as_of
    seconds = time.time() - at.seconds
    if not release.HasField("takedowns_as_of") or seconds < _MAX_TAKEDOWNS_AGE:
        return ""
    as_of = f"{at.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
    return f"takedowns as of {as_of}, {ago(seconds)} old: the log is away"
