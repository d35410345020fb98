"""`vireo release promote`: point a channel at a release, if the gate agrees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import open_store
from vireo.ops.cli.release.gate_table import print_gate
from vireo.ops.cli.release.options import (
    MAX_VIEWERS,
    Channel,
    Force,
    Reason,
    ReleaseId,
    Share,
    Viewers,
)
from vireo.server.errors import VireoError
from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.server.releases.channels import Channel as ReadChannel
    from vireo.server.releases.store import ReleaseStore
    from vireo.training.release.gate import GateResult


class PromotionRefusedError(VireoError):
    """The gate refused a release; nothing was changed."""

    exit_code = 3
    """Exit code of a refusal alone, so that the chart repeats other failures, and not this one."""


@dataclass(frozen=True)
class PromotionRequest:
    """Options of a promotion."""

    channel: str
    share: float | None = None
    force: bool = False
    reason: str = ""
    viewers: int = MAX_VIEWERS

    def __post_init__(self) -> None:
        """Raise VireoError on contradictory options."""
        if self.force and not self.reason:
            raise VireoError(
                "--force is recorded in the channel's history: give a reason with --reason"
            )
        if self.share and self.channel != "canary":
            raise VireoError(
                f"only the canary has a share of the viewers, not {self.channel}: "
                "add --channel canary, or omit --share"
            )


def promote(
    release_id: ReleaseId,
    channel: Channel = "production",
    share: Share = None,
    force: Force = False,
    reason: Reason = "",
    viewers: Viewers = MAX_VIEWERS,
    as_json: AsJson = False,
) -> None:
    """Point a channel at a published release, if the gate agrees; pods load it within seconds.

    The gate measures the release and the channel's current one on the watches that their
    measured twins hold out: NDCG@10, Recall@100, coverage, calibration of the probabilities, and
    median inference time. It refuses a loss that is shown to exceed its margin, and a release that
    differs from its measured twin more than seeds do; then the exit code is 3 and nothing changes.
    A canary, and the first release of a channel, is compared with production's; the first of all
    with its measured twin alone. There is no comparison for shadow, which serves no viewer, nor for
    a release of another data set that replaces one of example data, such as the demo's.

    For the canary's current release, --share changes only the share:
    vireo release promote ID --channel canary --share 0.1
    """
    request = PromotionRequest(channel, share, force, reason, viewers)
    with open_store() as store:
        promote_through_gate(store, release_id, request, as_json=as_json)


def promote_through_gate(
    store: ReleaseStore, release_id: str, request: PromotionRequest, *, as_json: bool = False
) -> None:
    """Promote a release, and print the gate's result.

    Raises:
        PromotionRefusedError: the gate refuses it and isn't overridden.
        ChannelChangedError: the channel was changed concurrently.
    """
    from vireo.server.releases.channels import Change

    before = store.read_channel(request.channel)
    if before is not None and before.release_id == release_id:
        _change_share(store, before, request, as_json)
        return
    store.manifest(release_id)
    served = before
    if before is None or request.channel == "canary":
        # Without the canary its viewers would get production's release.
        served = store.read_channel("production") or before
    compared = served.release_id if served else None
    result = _gate(store, request, served, release_id, replaces=served is before)
    if not as_json:
        print_gate(result, compared, release_id)
    overridden = request.force and not result.passed
    pointer = before.pointer if before else None
    if result.passed or overridden:
        change = Change(
            release_id,
            share=request.share,
            reason=request.reason,
            forced=overridden,
            findings=result.findings if overridden else (),
            best_figures=result.best_figures(served.pointer.best_figures if served else ()),
        )
        pointer = store.change_channel(request.channel, change, before)
    if as_json:
        document = {
            "channel": request.channel,
            "release_id": release_id,
            "previous": before.release_id if before else None,
            "promoted": result.passed or overridden,
            "forced": overridden,
            "share": pointer.share if pointer else 0.0,
            "compared_with": compared,
            "gate": result.as_json(),
        }
        print_json(document)
    if pointer is None or pointer.release_id != release_id:
        raise PromotionRefusedError(_refusal(request.channel, before, compared, release_id, result))
    if not as_json:
        instead = f" instead of {before.release_id}" if before else ""
        forced = ", against the gate" if overridden else ""
        typer.echo(f"channel {request.channel} now names {release_id}{instead}{forced}")
        if request.channel == "canary":
            typer.echo(_share_line(release_id, pointer.share))


def _gate(
    store: ReleaseStore,
    request: PromotionRequest,
    served: ReadChannel | None,
    release_id: str,
    *,
    replaces: bool,
) -> GateResult:
    """Return the gate's result for a release.

    Args:
        store: holds both releases.
        request: options of the promotion.
        served: the channel whose release is served now; None if there is none.
        release_id: the release to judge.
        replaces: whether `served` is the channel to change, rather than production.
    """
    from vireo.server.releases.cache import ReleaseCache
    from vireo.training.release.gate import FIRST, GateResult

    if request.channel == "shadow":
        return GateResult("nothing to compare", reason="shadow pods serve no viewer")
    if served is None and not store.manifest(release_id).measured:
        return GateResult("nothing to compare", reason=FIRST)
    if served is not None and served.release_id == release_id:
        return GateResult("nothing to compare", reason="production names it already")
    try:
        from vireo.training.release.promotion import ask_gate, ask_gate_of_first
    except ModuleNotFoundError as error:
        if served is None:
            return GateResult("nothing to compare", reason=FIRST)
        # Without the training extra a release can still be promoted, with --force and a reason.
        return GateResult(
            "not comparable",
            reason=f"the gate needs {error.name}; install it with: pip install 'vireo[training]'",
        )

    home = Home.current()
    # Share the cache of this machine's pods, so that each file is fetched once.
    cache = ReleaseCache(Path(os.environ.get("VIREO_CACHE") or home.cache))
    try:
        if served is None:
            return ask_gate_of_first(home, store, cache, release_id, max_viewers=request.viewers)
        return ask_gate(
            home,
            store,
            cache,
            served.release_id,
            release_id,
            max_viewers=request.viewers,
            best=served.pointer.best_figures,
            replaces=replaces,
        )
    finally:
        cache.prune()


def _change_share(
    store: ReleaseStore, before: ReadChannel, request: PromotionRequest, as_json: bool
) -> None:
    """Handle a release that the channel names already: only its share may change, ungated."""
    from vireo.server.releases.channels import Change

    release_id, share = before.release_id, before.pointer.share
    changed = request.share is not None and request.share != share
    if changed:
        change = Change(
            release_id,
            action="share",
            share=request.share,
            reason=request.reason,
            best_figures=before.pointer.best_figures,
        )
        share = store.change_channel(request.channel, change, before).share
    if as_json:
        document = {
            "channel": request.channel,
            "release_id": release_id,
            "previous": release_id,
            "promoted": False,
            "forced": False,
            "share": share,
            "gate": None,
        }
        print_json(document)
    elif changed:
        typer.echo(_share_line(release_id, share))
    else:
        typer.echo(f"channel {request.channel} names {release_id} already")


def _share_line(release_id: str, share: float) -> str:
    if not share:
        return (
            "no viewer gets it yet; give it some with: "
            f"vireo release promote {release_id} --channel canary --share 0.1"
        )
    return f"{share:.1%} of the viewers get it"


def _refusal(
    channel: str,
    before: ReadChannel | None,
    compared: str | None,
    release_id: str,
    result: GateResult,
) -> str:
    now = before.release_id if before else "nothing"
    ways = f"vireo release promote {release_id} --channel {channel} --force --reason '...'"
    if result.outcome == "not comparable":
        return (
            f"{release_id} can't be compared with {compared}, and {channel} still names "
            f"{now}: {result.reason}; if you know that it is good, override with: {ways}"
        )
    return (
        f"the gate refuses {release_id}, and {channel} still names {now}: "
        f"{'; '.join(result.findings)}; train a better one, or override it with: {ways}"
    )
