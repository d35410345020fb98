"""`vireo release publish`, `promote` and `rollback`: change what is published and served."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from vireo.ops.cli.options import (
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxViewersOption,
    TrainedOption,
)
from vireo.ops.cli.output import document_of, print_json, print_table, remark, table_of
from vireo.ops.stack.s3 import open_store
from vireo.server.home import Home
from vireo.server.releases import promotion
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import Channel as ReadChannel
from vireo.server.releases.gate import FIRST, Check, GateResult
from vireo.server.releases.manifest import CHANNEL_NAME, Manifest
from vireo.server.releases.promotion import PromotionRequest, roll_back
from vireo.server.releases.store import ReleaseStore

Channel = Annotated[str, typer.Option(help="Name of the channel.")]
ReleaseArgument = Annotated[
    str,
    typer.Argument(
        metavar="RELEASE", help="Id of a published release, or the channel that names it."
    ),
]
Share = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the viewers who get the canary, for example 0.1; unchanged if absent.",
        show_default=False,
    ),
]
Reason = Annotated[
    str, typer.Option(help="Reason, recorded in the channel's history; --force needs one.")
]
MAX_VIEWERS = 2000
"""Default maximum of test viewers: measures NDCG@10 to about .01 within a minute."""


def publish(
    data: TrainedOption = "",
    channel: Channel = "production",
    promote: Annotated[
        bool, typer.Option(help="Also point the channel at it, so that pods serve it.")
    ] = True,
    share: Share = None,
    force: ForceOption = False,
    reason: Reason = "",
    max_viewers: MaxViewersOption = MAX_VIEWERS,
    as_json: JsonOption = False,
) -> None:
    """Upload the release of the newest training run, and promote it if the gate agrees.

    The gate is that of `vireo release promote`; a refused release stays published. With
    --no-promote the release is uploaded and no channel changes.

    vireo release publish --data mine
    """
    request = PromotionRequest(channel, share, force, reason)
    folder = Home.current().trained_release(data)
    size = sum(entry.size for entry in Manifest.read(folder).files.values())
    with open_store(needed_bytes=size) as store:
        errors = Console(stderr=True)
        bar = Progress(TextColumn("uploading"), BarColumn(), DownloadColumn(), console=errors)
        with bar:
            task = bar.add_task("upload", total=size)
            manifest = store.publish(folder, lambda count: bar.advance(task, count))
        release_id = manifest.release_id
        published = f"published release {release_id} of data set {manifest.dataset}"
        if promote:
            (remark if as_json else typer.echo)(published)
            promote_through_gate(store, release_id, request, max_viewers, as_json=as_json)
        elif as_json:
            print_json({"releaseId": release_id, "dataset": manifest.dataset, "promoted": False})
        else:
            typer.echo(published)
            remark(f"serve it with: vireo release promote {release_id}")


def promote(
    release: ReleaseArgument,
    channel: Channel = "production",
    share: Share = None,
    force: ForceOption = False,
    reason: Reason = "",
    max_viewers: MaxViewersOption = MAX_VIEWERS,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Point a channel at a published release, if the gate agrees; pods load it within seconds.

    The gate measures the release and the channel's current one on the watches that their
    measured twins hold out: NDCG@10, Recall@100, coverage, calibration of the probabilities, and
    median inference time. It refuses a loss that is shown to exceed its margin, and a release that
    differs from its measured twin more than seeds do; then the exit code is 4 and nothing changes.
    A canary, and the first release of a channel, is compared with production's; the first of all
    with its measured twin alone. There is no comparison for a release of another data set that
    replaces one of example data, such as the demo's.

    With --dry-run only the gate's verdict is printed:

    vireo release promote canary --dry-run

    For the canary's current release, --share changes only the share:

    vireo release promote canary --channel canary --share 0.1
    """
    request = PromotionRequest(channel, share, force, reason, dry_run=dry_run)
    with open_store() as store:
        release_id = release_of(store, release)
        promote_through_gate(store, release_id, request, max_viewers, as_json=as_json)


def rollback(
    channel: Channel = "production",
    reason: Annotated[str, typer.Option(help="Reason, recorded in the channel's history.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Point a channel back at its last good release; pods still have it in their cache.

    This is the release before the current one, skipping releases that were themselves rolled
    back: two rollbacks undo two promotions. The gate isn't consulted.

    vireo release rollback --reason "plays fell"
    """
    with open_store() as store:
        done = roll_back(store, channel, reason)
    if as_json:
        document = {
            "channel": channel,
            "releaseId": done.pointer.release_id,
            "previous": done.before.release_id,
            "revision": done.pointer.revision,
            "share": done.pointer.share,
            "gone": list(done.gone),
        }
        print_json(document)
        return
    if done.gone:
        remark(f"skipped, no longer in the store: {', '.join(done.gone)}")
    typer.echo(
        f"channel {channel} names {done.pointer.release_id} again instead of "
        f"{done.before.release_id}"
    )


def release_of(store: ReleaseStore, release: str) -> str:
    """Return the id of the release that a channel of this name names, or else `release` itself."""
    named = store.channels.read(release) if re.fullmatch(CHANNEL_NAME, release) else None
    return named.release_id if named else release


def promote_through_gate(
    store: ReleaseStore,
    release_id: str,
    request: PromotionRequest,
    max_viewers: int,
    *,
    as_json: bool = False,
) -> None:
    """Promote a release, and print the outcome.

    Raises:
        PromotionRefusedError: the gate refuses it and isn't overridden.
        ChannelChangedError: the channel was changed concurrently.
    """

    def gate(current: ReadChannel | None, replaces: bool) -> GateResult:
        return _compared(store, current, release_id, max_viewers, replaces=replaces)

    done = promotion.promote(store, release_id, request, gate)
    if as_json:
        print_json(_promoted(done))
    elif done.gate is not None:
        print_gate(done.gate, done.compared, release_id)
    done.check()
    if as_json:
        return
    home = Home.current()
    if done.dataset and not home.features(done.dataset).exists():
        remark(
            f"there are no features of {done.dataset} in {home.root}: gateways that read those "
            f"here can't serve the release before: vireo features build --data {done.dataset}"
        )
    if request.dry_run and done.gate is not None:
        typer.echo(f"the gate passes it; channel {request.channel} stays as it is (--dry-run)")
        return
    if done.pointer is None:
        typer.echo(f"channel {request.channel} names {release_id} already")
    elif done.gate is not None:
        instead = f" instead of {done.before.release_id}" if done.before else ""
        forced = ", against the gate" if done.forced else ""
        typer.echo(f"channel {request.channel} now names {release_id}{instead}{forced}")
    if done.pointer is None or request.channel != "canary":
        return
    if done.share:
        typer.echo(f"{done.share:.1%} of the viewers get it")
    else:
        remark(
            "no viewer gets it yet; give it some with: "
            f"vireo release promote {release_id} --channel canary --share 0.1"
        )


def _promoted(done: promotion.Promotion) -> dict[str, Any]:
    """Return the outcome of a promotion as `--json` prints it."""
    document = {
        "channel": done.request.channel,
        "releaseId": done.release_id,
        "previous": done.before.release_id if done.before else None,
        "promoted": done.gate is not None and done.pointer is not None,
        "forced": done.forced,
        "share": done.share,
    }
    if done.gate is None:
        return {**document, "gate": None}
    verdict = {"passed": done.gate.passed, "findings": done.gate.findings}
    return {
        **document,
        "comparedWith": done.compared,
        "gate": {**document_of(done.gate), **verdict},
    }


def _compared(
    store: ReleaseStore,
    current: ReadChannel | None,
    release_id: str,
    max_viewers: int,
    *,
    replaces: bool,
) -> GateResult:
    """Return the gate's result, measured on this machine."""
    try:
        from vireo.training.progress import heartbeat
        from vireo.training.release.comparison import Comparison
    except ModuleNotFoundError as error:
        if current is None:
            return GateResult("nothing to compare", reason=FIRST)
        # Without the training extra a release can still be promoted, with --force and a reason.
        return GateResult(
            "not comparable",
            reason=f"the gate needs {error.name}; install it with: pip install 'vireo[training]'",
        )
    home = Home.current()
    # Share the cache of this machine's pods, so that each file is fetched once.
    cache = ReleaseCache(Path(os.environ.get("VIREO_CACHE") or home.cache))
    now_id = current.release_id if current else None
    best = current.pointer.best_figures if current else ()
    try:
        comparison = Comparison(home, store, cache, max_viewers)
        with heartbeat(Console(stderr=True), f"comparing {release_id}"):
            return comparison.compare(release_id, now_id, best, replaces=replaces)
    finally:
        cache.prune()


_LESS_IS_BETTER = ("log_loss", "miscalibration", "p50")


def print_gate(result: GateResult, now: str | None, candidate: str) -> None:
    """Print the comparison, or why there is none."""
    if not result.checks:
        why = "nothing to compare with" if result.passed else "not comparable"
        typer.echo(f"gate: {why}: {result.reason}")
        return
    other = now or "its measured twin, the same training without what is held out"
    typer.echo(f"{candidate} against {other}: {result.viewers:,} viewers' held-out watches")
    numbers = ("now", "new", "change", "margin", "can tell")
    table = table_of("measure", *numbers, "verdict", numbers=numbers, tight=True)
    for check in result.checks:
        table.add_row(*_row(check))
    print_table(table)
    for check in result.checks:
        if check.verdict == "below the best":
            best = f"{check.measure}: this channel reached {check.best:.4f}"
            typer.echo(f"note: {best} on the same watches")
    if now:
        chance = f"{result.false_refusals:.1%}"
        typer.echo(f"an equal release would be refused in at most {chance} of cases")
    blurred = [
        f"{check.measure} {check.tells / check.now:.1%} ({check.margin / check.now:.1%})"
        for check in result.checks
        if check.blurred and check.now
    ]
    if blurred:
        typer.echo(
            f"note: with {result.viewers:,} viewers the smallest loss that can be told is well "
            f"above the margin, in brackets: {', '.join(blurred)}"
        )
    if result.reason:
        typer.echo(f"note: {result.reason}")


def _row(check: Check) -> tuple[str | Text, ...]:
    style = "bold red" if check.refused else "green" if check.verdict == "better" else ""
    sign = 1 if check.measure.endswith(_LESS_IS_BETTER) else -1
    return (
        check.measure,
        f"{check.now:.4f}",
        f"{check.candidate:.4f}",
        f"{check.change:+.4f}",
        f"{sign * check.margin:+.4f}",
        f"{sign * check.tells:+.4f}",
        Text(check.verdict, style=style),
    )
