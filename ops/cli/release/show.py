"""`vireo release list`, `show` and `history`: what the store and its channels hold."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.cli.release.promote import ReleaseId
from vireo.ops.cli.release.verification import Verification
from vireo.ops.edge import serving_releases
from vireo.ops.stack.s3 import open_store
from vireo.ops.stack.state import running_stack
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.channels import Channel, ChannelPointer
from vireo.server.releases.garbage import Plan, collect, plan_collection
from vireo.server.releases.layout import ATTRIBUTES
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ListedRelease, ReleaseStore
from vireo.server.releases.store_errors import StoreError

_SHOWN = {"release_id", "created_at", "dataset", "holdout", "metrics"}


def list_(as_json: AsJson = False) -> None:
    """List published releases, newest first, and the channels that name them."""
    with open_store() as store:
        releases = store.list()
        channels = {name: channel.release_id for name, channel in store.channels.all().items()}
    named = {
        each.release_id: sorted(
            name for name, release_id in channels.items() if release_id == each.release_id
        )
        for each in releases
    }
    if as_json:
        print_json([_as_json(each, named[each.release_id]) for each in releases])
        return
    if not releases:
        typer.echo("no releases yet; publish one with: vireo release publish")
        return
    print_releases(releases, named)


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


def _as_json(each: ListedRelease, channels: list[str]) -> dict[str, Any]:
    shown = each.manifest.model_dump(mode="json", include=_SHOWN) if each.manifest else {}
    return {
        "release_id": each.release_id,
        **shown,
        "channels": channels,
        "problem": each.problem,
    }


def show(release_id: ReleaseId, as_json: AsJson = False) -> None:
    """Show what a release consists of, and its metrics."""
    with open_store() as store:
        manifest = store.manifest(release_id)
        attributes = declared_by(store, manifest)
    if as_json:
        print_json(manifest.model_dump(mode="json") | {"attributes": asdict(attributes)})
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
    channel: Annotated[
        str, typer.Option(envvar="VIREO_CHANNEL", help="Name of the channel.")
    ] = "production",
    last: Annotated[int, typer.Option(min=1, help="Number of changes to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the changes of a channel, newest first: who, when, from, to and why."""
    with open_store() as store:
        records = tuple(reversed(store.channels.history(channel, last)))
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    if not records:
        typer.echo(f"channel {channel} was never set")
        return
    print_history(records)


def print_history(records: Sequence[ChannelPointer]) -> None:
    """Print two lines per change: time, release and action; who, previous release and reason."""
    for record in records:
        when = f"{record.updated_at:%Y-%m-%d %H:%M:%S}"
        typer.echo(f"{record.revision:4}  {when}  {record.release_id}  {_what(record)}")
        instead = f", instead of {record.previous}" if record.previous else ""
        why = "; ".join(filter(None, (record.reason, *record.findings)))
        typer.echo(f"      by {record.updated_by}{instead}{f': {why}' if why else ''}")


def _what(record: ChannelPointer) -> str:
    action = f"{record.action}, forced" if record.forced else record.action
    return f"{action} {record.share:.1%}" if record.share else action


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


_PLANNED = {
    "release": "to remove: nothing needs it",
    "leftover": "to remove: incomplete upload or removal",
}


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the releases; without it, only show them.")
    ] = False,
    history: Annotated[
        int, typer.Option(min=0, help="Keep the releases of this many last changes per channel.")
    ] = 5,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Keep releases written within this many hours.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Remove releases that no channel needs, and leftovers of incomplete uploads.

    Releases are kept if a channel names them or would roll back to them, if its last changes
    name them, or if they were written recently. Nothing is removed without --yes.
    """
    removed: list[str] = []
    failed: dict[str, str] = {}
    with open_store() as store:
        plan = plan_collection(store, history, timedelta(hours=grace_hours))
        for each in plan.garbage if yes else ():
            try:
                if collect(store, each, history):
                    removed.append(each.release_id)
            except StoreError as error:  # reported below; the others are still removed
                failed[each.release_id] = str(error)
    _print_report(plan, removed, failed, yes=yes, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _print_report(
    plan: Plan, removed: Sequence[str], failed: Mapping[str, str], *, yes: bool, as_json: bool
) -> None:
    """Print what was, or would be, done with each release."""
    if as_json:
        document = {
            "kept": dict(plan.kept),
            "garbage": [
                {"release_id": each.release_id, "kind": each.kind, "size": each.size}
                for each in plan.garbage
            ],
            "removed": removed,
            "failed": failed,
        }
        print_json(document)
        return
    table = table_of("release", "size", "", numbers={"size"}, texts={""})
    for release_id, why in plan.kept.items():
        table.add_row(release_id, "", f"kept: {why}")
    for each in plan.garbage:
        if not yes:
            done = _PLANNED[each.kind]
        elif each.release_id in failed:
            done = f"failed: {failed[each.release_id]}"
        elif each.release_id in removed:
            done = "removed"
        else:
            done = "kept: needed or changed just now"
        table.add_row(each.release_id, f"{each.size / 1e6:,.1f} MB", done)
    print_table(table)
    size = sum(each.size for each in plan.garbage)
    if plan.garbage and not yes:
        typer.echo(f"{size / 1e6:,.1f} MB would be freed; do it with the same options and --yes")


def verify(
    release_id: Annotated[
        str, typer.Argument(help="Id of a release; if absent, all that channels name.")
    ] = "",
    channel: Annotated[
        str, typer.Option(help="Verify the release of this channel.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check a release as pods would: every digest in the store, then a load with golden replay.

    Prints every problem, and exits with 1 if there is one. Without a release, the releases that
    channels name are verified, and that they exist.

    Small golden differences on another processor architecture than the release was built on are
    reported, but don't fail the release.
    """
    from vireo.ops.cli.release.verification import named_releases

    with open_store() as store:
        problems: tuple[str, ...] = ()
        releases: tuple[str, ...] = (release_id,)
        if not release_id:
            problems, releases = named_releases(store, channel)
        found = [_verified(store, each, quiet=as_json) for each in releases]
    failed = bool(problems) or any(each.problems for each in found)
    if as_json:
        document = {
            "ok": not failed,
            "channels": list(problems),
            "releases": [asdict(each) for each in found],
        }
        print_json(document)
    else:
        _print(problems, found)
    if failed:
        raise typer.Exit(1)


def _verified(store: ReleaseStore, release_id: str, *, quiet: bool) -> Verification:
    from vireo.ops.cli.release.verification import verify_release

    # In VIREO_HOME: a release may be larger than the system's temporary folder.
    root = Home.current().root
    root.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=quiet)
    with (
        console.status(f"reading {release_id}"),
        tempfile.TemporaryDirectory(prefix=".verify-", dir=root) as scratch,
    ):
        return verify_release(store, release_id, Path(scratch))


def _print(problems: tuple[str, ...], found: list[Verification]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(f"[bold red]wrong[/]  {escape(problem)}")
    for each in found:
        for problem in each.problems:
            console.print(f"[bold red]wrong[/]  {escape(f'{each.release_id}: {problem}')}")
        for note in each.notes:
            console.print(f"[yellow]note[/]   {escape(f'{each.release_id}: {note}')}")
        if not each.problems:
            console.print(
                f"[green]sound[/]  {each.release_id}: {each.files} files, "
                f"{each.size / 1e6:,.1f} MB, loads as every kind of pod"
            )
    if not found and not problems:
        console.print("no channel names a release")


def declared_by(store: ReleaseStore, manifest: Manifest) -> Declared:
    """Return the attributes that a release in the store declares.

    Raises:
        ReleaseError: they can't be read.
        StoreError: the store can't be read.
    """
    text = b"".join(store.read(manifest.release_id, ATTRIBUTES))
    return Declared.parse(text, f"{manifest.release_id}/{ATTRIBUTES}")
