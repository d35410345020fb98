"""`vireo control`: run the control plane, and show the configuration of each Envoy."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.options import (
    CaOption,
    CertificateOption,
    ControlOption,
    JsonOption,
    KeyOption,
)
from vireo.ops.cli.output import print_json, print_table, remark, table_of
from vireo.ops.edge import EnvoyStatus, client_files, envoys_of, operator_tls, require_stack
from vireo.ops.stack.state import StackState
from vireo.server.errors import NoAnswerError

app = typer.Typer(no_args_is_help=True)

_STYLES = {"ACKED": "green", "NACKED": "red", "REQUESTED": "yellow"}


@app.command()
def serve() -> None:
    """Run the control plane until Ctrl-C; `vireo up` starts its own.

    VIREO_… variables configure it; `python -m vireo.server.control --help` lists them.

    vireo control serve
    """
    from vireo.server.control.control import serve_control
    from vireo.server.control.settings import ControlSettings
    from vireo.server.rpc.server import run_process
    from vireo.server.rpc.settings import load_settings

    settings = load_settings(ControlSettings, [])
    run_process(lambda: serve_control(settings))


@app.command()
def snapshot(
    control: ControlOption = "",
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each Envoy's resources: versions by kind, accepted and rejected ones, and why.

    vireo control snapshot
    """
    if control:
        envoys = envoys_of(control, client_files(certificate, key, ca))
    else:
        state = require_stack("name a control plane with --control")
        envoys = envoys_of(control_target(state), operator_tls(state))
    if as_json:
        print_json(envoys)
        return
    if not envoys:
        remark("no Envoy is connected")
    for envoy in envoys:
        typer.echo(f"{envoy.node}: {envoy.agent}")
        print_table(resource_table(envoy))


def control_target(state: StackState) -> str:
    """Return host:port of a running stack's control plane; raise VireoError before it starts."""
    for process in state.processes:
        if process.name == "control":
            return f"127.0.0.1:{process.port}"
    raise NoAnswerError("the stack has not started its control plane yet; look again in a moment")


def summary(envoys: Sequence[EnvoyStatus]) -> str:
    """Return a line for each Envoy: its resource counts by kind, and rejected resources."""
    lines = []
    for envoy in envoys:
        counts = [
            f"{sum(each.kind == kind for each in envoy.resources)} {kind}"
            for kind in envoy.versions
        ]
        has = ", ".join(counts) or "no resources yet"
        lines.append(f"{envoy.node}: {has}")
        lines += [
            f"  rejected {each.kind} {each.name}: {each.words}"
            for each in envoy.resources
            if each.state == "NACKED"
        ]
    return "\n".join(lines)


def resource_table(envoy: EnvoyStatus) -> Table:
    """Return a table of an Envoy's resources, by kind."""
    table = table_of("kind", "version", "resource", "its version", "state", "", texts={""})
    shown = ""
    for each in envoy.resources:
        table.add_row(
            each.kind if each.kind != shown else "",
            envoy.versions[each.kind] if each.kind != shown else "",
            each.name,
            each.version,
            Text(each.state, style=_STYLES.get(each.state, "")),
            Text(f"{each.refused_version}: {each.words}" if each.words else ""),
        )
        shown = each.kind
    return table
