"""`vireo control`: run the control plane, and show the configuration of each Envoy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.edge import operator_tls, require_stack
from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.stack.state import StackState
    from vireo.server.rpc.tls import TlsFiles

app = typer.Typer(no_args_is_help=True)

_TIMEOUT = 5.0
_STYLES = {"ACKED": "green", "NACKED": "red", "REQUESTED": "yellow"}


@dataclass(frozen=True)
class ResourceStatus:
    """One resource on one Envoy."""

    kind: str
    """One of "clusters", "endpoints", "listeners" and "routes"."""
    name: str
    version: str
    """Version that the Envoy has; empty if it never accepted one."""
    state: str
    """ACKED, NACKED (a newer version was rejected) or REQUESTED (a version is in flight)."""
    refused_version: str
    words: str
    """Error details of the rejection, as sent by Envoy."""


@dataclass(frozen=True)
class EnvoyStatus:
    """One Envoy."""

    node: str
    agent: str
    connected: bool
    versions: dict[str, str]
    """Version of each kind."""
    resources: tuple[ResourceStatus, ...]


@app.command()
def serve() -> None:
    """Run the control plane until Ctrl-C; `vireo up` starts its own.

    VIREO_… variables configure it; `python -m vireo.server.control --help` lists them.
    """
    from vireo.server.control.control import serve_control
    from vireo.server.control.settings import ControlSettings
    from vireo.server.rpc.server import run_process
    from vireo.server.rpc.settings import load_settings

    settings = load_settings(ControlSettings, [])
    run_process(lambda: serve_control(settings))


@app.command()
def snapshot(
    target: Annotated[
        str, typer.Option(help="host:port of the control plane; the running stack's if absent.")
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="With --target: client certificate for mutual TLS, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="CA of the certificate and of the target, PEM.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each Envoy's resources: versions by kind, accepted and rejected ones, and why."""
    if target:
        envoys = envoys_of(target, _files(certificate, key, ca))
    else:
        state = require_stack("name a control plane with --target")
        envoys = envoys_of(control_target(state), operator_tls(state))
    if as_json:
        print_json([asdict(each) for each in envoys])
        return
    if not envoys:
        typer.echo("no Envoy has connected yet")
    for envoy in envoys:
        connection = (
            "connected" if envoy.connected else "disconnected; its last known state follows"
        )
        typer.echo(f"{envoy.node}: {envoy.agent}, {connection}")
        print_table(resource_table(envoy))


def _files(certificate: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    from vireo.server.rpc.tls import TlsFiles

    if certificate and key and ca:
        return TlsFiles(certificate, key, ca)
    if certificate or key or ca:
        raise VireoError("--certificate, --key and --ca go together")
    return None


def envoys_of(
    target: str, tls: TlsFiles | None = None, seconds: float = _TIMEOUT
) -> list[EnvoyStatus]:
    """Return the status of each client of a control plane.

    Args:
        target: host:port of the control plane.
        tls: client TLS files, if it uses mutual TLS.
        seconds: maximum time to wait for its answer.

    Raises:
        VireoError: the control plane doesn't answer, or a TLS file can't be read.
    """
    import grpc
    from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
    from envoy.service.status.v3.csds_pb2 import ClientStatusRequest
    from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub

    from vireo.server.control.ads import CONNECTED
    from vireo.server.control.snapshot import KINDS, version_of
    from vireo.server.rpc.tls import open_blocking_channel

    request = ClientStatusRequest(exclude_resource_contents=True)
    with open_blocking_channel(target, tls, "control") as channel:
        try:
            answer = ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(
                request, timeout=seconds
            )
        except grpc.RpcError as error:
            raise VireoError(
                f"no control plane answers at {target} ({error.code().name}); start one with "
                "`vireo up` or `vireo control serve`, or name another with --target"
            ) from error
    envoys = []
    for config in answer.config:
        resources = tuple(
            ResourceStatus(
                kind=KINDS.get(each.type_url, each.type_url),
                name=each.name,
                version=each.version_info,
                state=ClientResourceStatus.Name(each.client_status),
                refused_version=each.error_state.version_info,
                words=each.error_state.details,
            )
            for each in config.generic_xds_configs
        )
        versions = {
            kind: version_of({each.name: each.version for each in resources if each.kind == kind})
            for kind in dict.fromkeys(each.kind for each in resources)
        }
        envoys.append(
            EnvoyStatus(
                node=config.node.id,
                agent=config.node.user_agent_name,
                connected=config.node.metadata[CONNECTED],
                versions=versions,
                resources=resources,
            )
        )
    return envoys


def control_target(state: StackState) -> str:
    """Return host:port of a running stack's control plane; raise VireoError before it starts."""
    for process in state.processes:
        if process.name == "control":
            return f"127.0.0.1:{process.port}"
    raise VireoError("the stack has not started its control plane yet; look again in a moment")


def summary(envoys: Sequence[EnvoyStatus]) -> str:
    """Return a line for each Envoy: its resource counts by kind, and rejected resources."""
    lines = []
    for envoy in envoys:
        counts = [
            f"{sum(each.kind == kind for each in envoy.resources)} {kind}"
            for kind in envoy.versions
        ]
        has = ", ".join(counts) or "no resources yet"
        lines.append(f"{envoy.node}: {has}" + ("" if envoy.connected else "; disconnected"))
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
