"""`vireo release promote`: points a channel at a release, if the gate agrees."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clients.cli.release.access import open_store
from clients.cli.release.gate_table import print_gate
from clients.cli.release.options import (
    MOST_VIEWERS,
    AsJson,
    Channel,
    Force,
    Reason,
    ReleaseId,
    Share,
    Viewers,
)
from server.errors import VireoError
from server.home import Home

if TYPE_CHECKING:
    from server.releases.channels import Channel as ReadChannel
    from server.releases.store import ReleaseStore
    from training.release.gate import GateResult


class PromotionRefusedError(VireoError):
    """The gate refuses a release; nothing was changed."""


@dataclass(frozen=True)
class Wish:
    """How a release is to be promoted."""

    channel: str
    share: float | None = None
    force: bool = False
    reason: str = ""
    viewers: int = MOST_VIEWERS

    def __post_init__(self) -> None:
        """Refuses what contradicts itself, before anything is done."""
        if self.force and not self.reason:
            raise VireoError("--force goes into the channel's history: say why with --reason")
        if self.share and self.channel != "canary":
            raise VireoError(
                f"only the canary has a share of the viewers, not {self.channel}: "
                "give --channel canary too, or leave --share out"
            )


def promote(
    release_id: ReleaseId,
    channel: Channel = "production",
    share: Share = None,
    force: Force = False,
    reason: Reason = "",
    viewers: Viewers = MOST_VIEWERS,
    as_json: AsJson = False,
) -> None:
    """Point a channel at a published release, if the gate agrees; pods load it within seconds.

    The gate measures the release and the one that the channel names now on the watches that
    their measured twins hold out: NDCG@10, Recall@100, coverage, how true the probabilities are,
    and the median time of an inference. It refuses what is worse by more than its margin and by
    more than chance; then the exit code is 1 and nothing has changed. The first release of a
    channel is compared with that of production; what goes to shadow, which no viewer gets, is
    compared with nothing, nor is a release of another data set that follows one of example data,
    such as the demo's.

    Another share for the canary's own release changes the share alone:
    vireo release promote ID --channel canary --share 0.1
    """
    wish = Wish(channel, share, force, reason, viewers)
    with open_store() as store:
        promote_through_gate(store, release_id, wish, as_json=as_json)


def promote_through_gate(
    store: ReleaseStore, release_id: str, wish: Wish, *, as_json: bool = False
) -> None:
    """Promotes a release, and prints what the gate found.

    Raises:
        PromotionRefusedError: the gate refuses it, and isn't overridden.
        ChannelChangedError: somebody else changed the channel in the meantime.
    """
    from server.releases.channels import Change

    before = store.read_channel(wish.channel)
    if before is not None and before.release_id == release_id:
        _change_share(store, before, wish, as_json)
        return
    store.manifest(release_id)
    served = before or store.read_channel("production")
    compared = served.release_id if served else None
    result = _gate(store, wish, served, release_id, replaces=before is not None)
    if not as_json:
        print_gate(result, compared, release_id)
    overridden = wish.force and not result.passed
    pointer = before.pointer if before else None
    if result.passed or overridden:
        change = Change(
            release_id,
            share=wish.share,
            reason=wish.reason,
            forced=overridden,
            findings=result.findings if overridden else (),
            best_figures=result.best_figures(served.pointer.best_figures if served else ()),
        )
        pointer = store.change_channel(wish.channel, change, before)
    if as_json:
        document = {
            "channel": wish.channel,
            "release_id": release_id,
            "previous": before.release_id if before else None,
            "promoted": result.passed or overridden,
            "forced": overridden,
            "share": pointer.share if pointer else 0.0,
            "compared_with": compared,
            "gate": result.as_json(),
        }
        typer.echo(json.dumps(document, indent=2))
    if pointer is None or pointer.release_id != release_id:
        raise PromotionRefusedError(_refusal(wish.channel, before, compared, release_id, result))
    if not as_json:
        instead = f" instead of {before.release_id}" if before else ""
        forced = ", against the gate" if overridden else ""
        typer.echo(f"channel {wish.channel} now names {release_id}{instead}{forced}")
        if wish.channel == "canary":
            typer.echo(_told_share(release_id, pointer.share))


def _gate(
    store: ReleaseStore, wish: Wish, served: ReadChannel | None, release_id: str, *, replaces: bool
) -> GateResult:
    """Return what the gate says of a release.

    Args:
        store: where both are.
        wish: how it is to be promoted.
        served: the channel whose release the viewers get now; None if there is none.
        release_id: the one to judge.
        replaces: whether that is the channel to change, not only production.
    """
    from server.releases.cache import ReleaseCache
    from training.release.gate import GateResult

    if wish.channel == "shadow":
        return GateResult("nothing to compare", reason="no viewer gets what shadow pods answer")
    if served is None:
        return GateResult("nothing to compare", reason="it is the channel's first release")
    if served.release_id == release_id:
        return GateResult("nothing to compare", reason="production names it already")
    try:
        from training.release.promotion import ask_gate
    except ModuleNotFoundError as error:
        # Where one only serves, a release can still be promoted, by somebody who says why.
        return GateResult(
            "not comparable",
            reason=f"the gate needs {error.name}; install it with: pip install 'vireo[training]'",
        )

    home = Home.current()
    # The same cache as that of this machine's pods, so that each file is fetched once.
    cache = ReleaseCache(Path(os.environ.get("VIREO_CACHE") or home.cache))
    try:
        return ask_gate(
            home,
            store,
            cache,
            served.release_id,
            release_id,
            max_viewers=wish.viewers,
            best=served.pointer.best_figures,
            replaces=replaces,
        )
    finally:
        cache.prune()


def _change_share(store: ReleaseStore, before: ReadChannel, wish: Wish, as_json: bool) -> None:
    """Promotes what is named already: at most its share changes, which asks no gate."""
    from server.releases.channels import Change

    release_id, share = before.release_id, before.pointer.share
    changed = wish.share is not None and wish.share != share
    if changed:
        change = Change(
            release_id,
            action="share",
            share=wish.share,
            reason=wish.reason,
            best_figures=before.pointer.best_figures,
        )
        share = store.change_channel(wish.channel, change, before).share
    if as_json:
        document = {
            "channel": wish.channel,
            "release_id": release_id,
            "previous": release_id,
            "promoted": False,
            "forced": False,
            "share": share,
            "gate": None,
        }
        typer.echo(json.dumps(document, indent=2))
    elif changed:
        typer.echo(_told_share(release_id, share))
    else:
        typer.echo(f"channel {wish.channel} names {release_id} already")


def _told_share(release_id: str, share: float) -> str:
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
            f"{release_id} can't be compared with {compared}, and {channel} goes on to name "
            f"{now}: {result.reason}; if you know that it is good: {ways}"
        )
    return (
        f"the gate refuses {release_id}, and {channel} goes on to name {now}: "
        f"{'; '.join(result.findings)}; train a better one, or override it with: {ways}"
    )
