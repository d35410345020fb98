"""`vireo release status`: the channels, and the release that each pod serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.cli.release.access import open_store
from vireo.ops.edge import serving_releases
from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.server.releases.channels import Channel


def status(as_json: AsJson = False) -> None:
    """Show which release each channel names, and which one each pod of the stack serves.

    If no stack runs on VIREO_HOME, only the channels are shown.
    """
    with open_store() as store:
        channels = store.channels.all()
    pods = _pods()
    if as_json:
        document = {
            "channels": {
                name: channel.pointer.model_dump(mode="json") for name, channel in channels.items()
            },
            "pods": pods,
        }
        print_json(document)
        return
    print_channels(channels)
    if pods is None:
        typer.echo(f"no stack runs on {Home.current().root}")
    else:
        print_pods(pods, {name: channel.release_id for name, channel in channels.items()})
        print_comparisons(pods)


def _pods() -> dict[str, dict[str, Any] | None] | None:
    """Return each pod's serving release, None if it doesn't answer; None without a stack."""
    from google.protobuf.json_format import MessageToDict

    from vireo.ops.stack.state import running_stack

    state = running_stack(Home.current())
    if state is None:
        return None
    return {
        name: None if answer is None else MessageToDict(answer, preserving_proto_field_name=True)
        for name, answer in serving_releases(state).items()
    }


def print_channels(channels: dict[str, Channel]) -> None:
    """Print each channel's release and since when, then who changed it last and why."""
    table = table_of("channel", "release", "share", "since", numbers={"share"}, title="channels")
    for name, channel in channels.items():
        pointer = channel.pointer
        table.add_row(
            name,
            pointer.release_id,
            f"{pointer.share:.1%}" if pointer.share else "",
            f"{pointer.updated_at:%Y-%m-%d %H:%M:%S}",
        )
    print_table(table)
    for name, channel in channels.items():
        why = f": {channel.pointer.reason}" if channel.pointer.reason else ""
        typer.echo(f"{name}: by {channel.pointer.updated_by}{why}")


def print_pods(pods: dict[str, dict[str, Any] | None], named: dict[str, str]) -> None:
    """Print a line per pod, marking a release that isn't the one that its channel names.

    Then print what each pod is loading, and its last failure.
    """
    table = table_of("pod", "pool", "serves", "from", title="pods")
    for name, pod in pods.items():
        if pod is None:
            table.add_row(name, "", Text("doesn't answer", style="red"))
            continue
        pool, serves = pod.get("channel", ""), pod.get("release_id", "")
        behind = serves != named.get(pool)
        table.add_row(
            name,
            pool,
            Text(serves or "nothing", style="yellow" if behind else ""),
            pod.get("origin", ""),
        )
    print_table(table)
    for name, pod in pods.items():
        if loading := _loading((pod or {}).get("loading")):
            typer.echo(f"{name}: {loading}")
        if failure := (pod or {}).get("last_failure"):
            typer.echo(f"{name}: {failure}")


def print_comparisons(pods: dict[str, dict[str, Any] | None]) -> None:
    """Print the shadow pool's comparison for each gateway that mirrors requests to it."""
    columns = ("compared", "failed", "dropped", "same of ten", "score shift", "served", "shadow")
    shadows = {name: pod["shadow"] for name, pod in pods.items() if pod and "shadow" in pod}
    releases = sorted({shadow.get("release_id", "") for shadow in shadows.values()} - {""})
    title = f"shadow pool, {' and '.join(releases) or 'no release yet'}"
    table = table_of("gateway", *columns, numbers=columns, title=title, tight=True)
    for name, shadow in shadows.items():
        table.add_row(
            name,
            *(str(shadow.get(count, 0)) for count in ("compared", "failed", "dropped")),
            f"{shadow.get('mean_overlap_10', 0.0):.1%}",
            f"{shadow.get('mean_score_shift', 0.0):+.4f}",
            *(_milliseconds(shadow.get(f"{side}_time", "0s")) for side in ("served", "shadow")),
        )
    if table.row_count:
        print_table(table)


def _milliseconds(duration: str) -> str:
    """Format a JSON duration, "0.0123s", in milliseconds."""
    return f"{float(duration.removesuffix('s')) * 1000:.1f} ms"


def _loading(loading: dict[str, Any] | None) -> str:
    """Return stage, bytes and release that a pod is loading; empty if it loads nothing."""
    if not loading:
        return ""
    stage = str(loading.get("stage", "")).removeprefix("LOAD_STAGE_").lower()
    done, total = (int(loading.get(f"bytes_{name}", 0)) / 1e6 for name in ("done", "total"))
    return f"{stage} {done:,.1f} of {total:,.1f} MB of {loading.get('release_id', '')}"
