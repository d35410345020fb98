"""`vireo release`: what the store and its channels hold, and whether that is sound or needed."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.options import DryRunOption, JsonOption, YesOption, confirm
from vireo.ops.cli.output import document_of, print_json, print_table, remark, table_of, words
from vireo.ops.cli.release.promote import Channel as ChannelOption
from vireo.ops.cli.release.promote import ReleaseArgument, release_of
from vireo.ops.edge import serving_releases
from vireo.ops.stack.s3 import open_store
from vireo.ops.stack.state import running_stack
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.bucket import StoreError
from vireo.server.releases.channels import Channel, ChannelPointer
from vireo.server.releases.layout import ATTRIBUTES
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ListedRelease, Plan, collect, plan_collection
from vireo.v1.release_pb2 import GetServingReleaseResponse, LoadStage

_SHOWN = ("createdAt", "dataset", "holdout", "metrics")


def list_(as_json: JsonOption = False) -> None:
    """List published releases, newest first, and the channels that name them.

    vireo release list
    """
    with open_store() as store:
        releases = store.list()
        channels = store.channels.all()
    named = defaultdict[str, list[str]](list)
    for name, channel in sorted(channels.items()):
        named[channel.release_id].append(name)
    if as_json:
        documents = [
            {
                "releaseId": each.release_id,
                **_shown(each.manifest),
                "channels": named[each.release_id],
                "problem": each.problem,
            }
            for each in releases
        ]
        print_json(documents)
        return
    if not releases:
        remark("no releases yet; publish one with: vireo release publish")
        return
    print_releases(releases, named)


def _shown(manifest: Manifest | None) -> dict[str, Any]:
    document = document_of(manifest) if manifest else {}
    return {name: document[name] for name in _SHOWN if name in document}


def print_releases(
    releases: Sequence[ListedRelease], channels: Mapping[str, Sequence[str]]
) -> None:
    """Print a line per release, followed by the reasons why this build can't serve some."""
    titles = ("release", "data set", "created", "size", "channels")
    table = table_of(*titles, numbers={"size"}, texts={"channels"})
    for each in releases:
        manifest = each.manifest
        table.add_row(
            each.release_id,
            manifest.dataset if manifest else Text("unfit", style="red"),
            f"{manifest.created_at:%Y-%m-%d %H:%M}" if manifest else "",
            megabytes(manifest) if manifest else "",
            ", ".join(channels[each.release_id]),
        )
    print_table(table)
    for each in releases:
        if each.problem:
            typer.echo(f"{each.release_id}: {each.problem}")


def show(release: ReleaseArgument, as_json: JsonOption = False) -> None:
    """Show what a release consists of, and its metrics.

    vireo release show production
    """
    with open_store() as store:
        release_id = release_of(store, release)
        manifest = store.manifest(release_id)
        text = b"".join(store.read(release_id, ATTRIBUTES))
        attributes = Declared.parse(text, f"{release_id}/{ATTRIBUTES}")
    if as_json:
        print_json(document_of(manifest) | {"attributes": document_of(attributes)})
        return
    names = f"{', '.join(attributes.labels)}; numbers: {', '.join(attributes.numbers)}"
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "release": manifest.release_id,
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "data set": f"{manifest.dataset} ({manifest.data_fingerprint[:12]})",
        "held out": "each viewer's last watch" if manifest.holdout == "last" else "nothing",
        "code": manifest.code_commit[:12],
        "goldens of": manifest.architecture or "an unknown processor",
        "attributes": names,
        "files": f"{len(manifest.files)}, {megabytes(manifest)}",
        **{name: f"{value:.4f}" for name, value in manifest.metrics.items()},
    }.items():
        table.add_row(name, value)
    Console().print(table)


def megabytes(manifest: Manifest) -> str:
    """Return the total size of a release's files."""
    return f"{sum(entry.size for entry in manifest.files.values()) / 1e6:,.1f} MB"


def history(
    channel: ChannelOption = "production",
    changes: Annotated[int, typer.Option(min=1, help="Number of changes to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the changes of a channel, newest first: who, when, from, to and why.

    vireo release history --channel canary
    """
    with open_store() as store:
        records = tuple(reversed(store.channels.history(channel, changes)))
    if as_json:
        print_json(records)
        return
    if not records:
        remark(f"channel {channel} was never set")
        return
    print_history(records)


def print_history(records: Sequence[ChannelPointer]) -> None:
    """Print two lines per change: time, release and action; who, previous release and reason."""
    for record in records:
        when = f"{record.updated_at:%Y-%m-%d %H:%M:%S}"
        what = f"{record.action}, forced" if record.forced else record.action
        share = f" {record.share:.1%}" if record.share else ""
        typer.echo(f"{record.revision:4}  {when}  {record.release_id}  {what}{share}")
        instead = f", instead of {record.previous}" if record.previous else ""
        why = "; ".join(filter(None, (record.reason, *record.findings)))
        typer.echo(f"      by {record.updated_by}{instead}{f': {why}' if why else ''}")


def status(as_json: JsonOption = False) -> None:
    """Show which release each channel names, and which one each pod of the stack serves.

    If no stack runs on VIREO_HOME, only the channels are shown.

    vireo release status
    """
    with open_store() as store:
        channels = store.channels.all()
    state = running_stack(Home.current())
    pods = None if state is None else serving_releases(state)
    if as_json:
        pointers = {name: channel.pointer for name, channel in channels.items()}
        served = {name: pod and MessageToDict(pod) for name, pod in (pods or {}).items()}
        print_json({"channels": pointers, "pods": None if pods is None else served})
        return
    print_channels(channels)
    if pods is None:
        remark(f"no stack runs on {Home.current().root}")
    else:
        print_pods(pods, {name: channel.release_id for name, channel in channels.items()})


def print_channels(channels: dict[str, Channel]) -> None:
    """Print each channel's release and since when, who changed it last and why."""
    for name, channel in channels.items():
        pointer = channel.pointer
        share = f" for {pointer.share:.1%} of the viewers" if pointer.share else ""
        why = f": {pointer.reason}" if pointer.reason else ""
        when = f"{pointer.updated_at:%Y-%m-%d %H:%M:%S}"
        typer.echo(f"{name} names {pointer.release_id}{share}")
        typer.echo(f"  since {when}, by {pointer.updated_by}{why}")


def print_pods(
    pods: Mapping[str, GetServingReleaseResponse | None], named: Mapping[str, str]
) -> None:
    """Print a line per pod, marking a release that isn't the one that its channel names.

    Then print what each pod is loading, and its last failure.
    """
    table = table_of("pod", "pool", "serves", "from", title="pods")
    for name, pod in pods.items():
        if pod is None:
            table.add_row(name, "", Text("doesn't answer", style="red"))
            continue
        style = "yellow" if pod.release_id != named.get(pod.channel) else ""
        table.add_row(name, pod.channel, Text(pod.release_id or "nothing", style), pod.origin)
    print_table(table)
    for name, pod in pods.items():
        if pod and pod.HasField("loading"):
            load = pod.loading
            size = f"{load.bytes_done / 1e6:,.1f} of {load.bytes_total / 1e6:,.1f} MB"
            typer.echo(f"{name}: {words(LoadStage, load.stage)} {size} of {load.release_id}")
        if pod and pod.last_failure:
            typer.echo(f"{name}: {pod.last_failure}")


_PLANNED = {
    "release": "to remove: nothing needs it",
    "leftover": "to remove: incomplete upload or removal",
}


def gc(
    history: Annotated[
        int, typer.Option(min=0, help="Keep the releases of this many last changes per channel.")
    ] = 5,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Keep releases written within this many hours.")
    ] = 24.0,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove releases that no channel needs, and leftovers of incomplete uploads.

    Releases are kept if a channel names them or would roll back to them, if its last changes
    name them, or if they were written recently.

    vireo release gc --dry-run
    """
    removed: list[str] = []
    failed: dict[str, str] = {}
    with open_store() as store:
        plan = plan_collection(store, history, timedelta(hours=grace_hours))
        _print_plan(plan, Console(stderr=as_json))
        if plan.garbage and not dry_run:
            size = sum(each.size for each in plan.garbage) / 1e6
            confirm(f"remove {len(plan.garbage)} of them, {size:,.1f} MB?", yes=yes)
            for each in plan.garbage:
                try:
                    gone = collect(store, each, history)
                except StoreError as error:  # reported below; the others are still removed
                    failed[each.release_id] = str(error)
                    remark(f"{each.release_id}: failed: {error}")
                    continue
                if not gone:
                    remark(f"{each.release_id}: kept: needed or changed just now")
                removed += [each.release_id] * gone
    if as_json:
        garbage = [
            {"releaseId": each.release_id, "kind": each.kind, "size": each.size}
            for each in plan.garbage
        ]
        print_json({"kept": plan.kept, "garbage": garbage, "removed": removed, "failed": failed})
    elif not dry_run:
        typer.echo(f"removed {len(removed)} of {len(plan.garbage)}")
    if failed:
        raise typer.Exit(1)


def _print_plan(plan: Plan, console: Console) -> None:
    table = table_of("release", "size", "", numbers={"size"}, texts={""})
    for release_id, why in plan.kept.items():
        table.add_row(release_id, "", f"kept: {why}")
    for each in plan.garbage:
        table.add_row(each.release_id, f"{each.size / 1e6:,.1f} MB", _PLANNED[each.kind])
    print_table(table, console)


def verify(
    release_id: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE", help="Id of a release; if absent, all that channels name."
        ),
    ] = "",
    channel: ChannelOption = "",
    as_json: JsonOption = False,
) -> None:
    """Check a release as pods would: every digest in the store, then a load with golden replay.

    Prints every problem, and exits with 1 if there is one. Without RELEASE, verifies every release
    that a channel names, and reports any that is missing.

    Small golden differences on another processor architecture than the release was built on are
    reported, but don't fail the release.

    vireo release verify --channel production
    """
    from vireo.ops.cli.release.verification import named_releases, verify_release

    # In VIREO_HOME: a release may be larger than the system's temporary folder.
    root = Home.current().root
    root.mkdir(parents=True, exist_ok=True)
    found, progress = [], Console(stderr=True, quiet=as_json)
    with open_store() as store:
        problems, releases = (
            named_releases(store, channel) if not release_id else ((), [release_id])
        )
        for each in releases:
            with (
                progress.status(f"reading {each}"),
                tempfile.TemporaryDirectory(prefix=".verify-", dir=root) as scratch,
            ):
                found.append(verify_release(store, each, Path(scratch)))
    failed = bool(problems) or any(each.problems for each in found)
    if as_json:
        print_json({"ok": not failed, "channels": problems, "releases": document_of(found)})
    else:
        lines = [("[bold red]wrong[/] ", problem) for problem in problems]
        for one in found:
            of = one.release_id
            lines += [("[bold red]wrong[/] ", f"{of}: {problem}") for problem in one.problems]
            lines += [("[yellow]note[/]  ", f"{of}: {note}") for note in one.notes]
            if not one.problems:
                size = f"{one.files} files, {one.size / 1e6:,.1f} MB"
                lines.append(("[green]sound[/] ", f"{of}: {size}, loads as every kind of pod"))
        for kind, line in lines or [("", "no channel names a release")]:
            Console(highlight=False, soft_wrap=True).print(f"{kind} {escape(line)}".strip())
    if failed:
        raise typer.Exit(1)
