"""Promotion and rollback: which release a channel names next.

A promotion needs the gate's consent (`vireo.server.releases.gate`) or an override with a reason. A
rollback goes to the release before, skipping what was itself rolled back from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vireo.server.errors import UsageError, VireoError
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.channels import CANARY, Change, Channel, ChannelPointer
from vireo.server.releases.gate import FIRST, GateResult
from vireo.server.releases.store import ReleaseStore

PRODUCTION = "production"

Gate = Callable[[Channel | None, bool], GateResult]
"""Compares the release to promote with the one that a channel names, or without a channel with its
own measured twin. The flag says whether it replaces that release in its channel."""


class PromotionRefusedError(VireoError):
    """The gate refused a release; nothing was changed."""

    exit_code = 4
    """Exit code of a refusal alone, so that the chart repeats other failures, and not this one."""


class NothingToReturnToError(VireoError):
    """A channel has no earlier good release; the message says what to do instead."""


@dataclass(frozen=True)
class PromotionRequest:
    """Options of a promotion."""

    channel: str
    share: float | None = None
    force: bool = False
    reason: str = ""
    dry_run: bool = False
    """Whether to ask the gate alone, and change nothing."""

    def __post_init__(self) -> None:
        """Raise UsageError on contradictory options."""
        if self.force and not self.reason:
            raise UsageError(
                "--force is recorded in the channel's history: give a reason with --reason"
            )
        if self.share and self.channel != CANARY:
            raise UsageError(
                f"only the canary has a share of the viewers, not {self.channel}: "
                "add --channel canary, or omit --share"
            )


@dataclass(frozen=True)
class Promotion:
    """Outcome of a promotion."""

    request: PromotionRequest
    release_id: str
    before: Channel | None
    """The channel as it was."""
    compared: str | None = None
    """The release that the gate compared it with; None if it was the channel's first."""
    gate: GateResult | None = None
    """None if the channel named the release already: then only its share may have changed."""
    pointer: ChannelPointer | None = None
    """What the channel holds since the promotion; None if nothing was changed."""
    dataset: str = ""
    """Of the release; empty if the channel named it already."""

    @property
    def forced(self) -> bool:
        """Whether the gate's refusal was overridden."""
        return self.pointer is not None and self.pointer.forced

    @property
    def share(self) -> float:
        """Share of the viewers whom the channel has now."""
        now = self.pointer or (self.before.pointer if self.before else None)
        return now.share if now else 0.0

    def check(self) -> None:
        """Raise PromotionRefusedError if the gate refused the release."""
        if self.gate is None or self.gate.passed or self.pointer is not None:
            return
        release_id, channel = self.release_id, self.request.channel
        now = self.before.release_id if self.before else "nothing"
        ways = f"vireo release promote {release_id} --channel {channel} --force --reason '...'"
        if self.gate.outcome == "not comparable":
            raise PromotionRefusedError(
                f"{release_id} can't be compared with {self.compared}, and {channel} still names "
                f"{now}: {self.gate.reason}; if you know that it is good, override with: {ways}"
            )
        raise PromotionRefusedError(
            f"the gate refuses {release_id}, and {channel} still names {now}: "
            f"{'; '.join(self.gate.findings)}; train a better one, or override it with: {ways}"
        )


@dataclass(frozen=True)
class Rollback:
    """Outcome of a rollback."""

    before: Channel
    pointer: ChannelPointer
    """What the channel holds now."""
    gone: tuple[str, ...]
    """Earlier releases that were skipped, since they are no longer in the store."""


def promote(
    store: ReleaseStore, release_id: str, request: PromotionRequest, gate: Gate
) -> Promotion:
    """Point a channel at a release unless the gate refuses it and isn't overridden.

    A release that the channel names already isn't judged again: only its share may change.

    Args:
        store: holds the channel and the release.
        release_id: the release.
        request: the channel, and how to change it.
        gate: judges the release if it has to be compared with another.

    Raises:
        NotInStoreError: the release isn't published.
        ReleaseError: it is unfit.
        ChannelChangedError: the channel was changed concurrently.
    """
    before = store.read_channel(request.channel)
    if before is not None and before.release_id == release_id:
        if request.dry_run or request.share in (None, before.pointer.share):
            return Promotion(request, release_id, before)
        change = Change(
            release_id,
            action="share",
            share=request.share,
            reason=request.reason,
            best_figures=before.pointer.best_figures,
        )
        pointer = store.change_channel(request.channel, change, before)
        return Promotion(request, release_id, before, pointer=pointer)
    manifest = store.manifest(release_id)
    current = before
    if before is None or request.channel == CANARY:
        # Without the canary its viewers would get production's release.
        current = store.read_channel(PRODUCTION) or before
    if current is None and not manifest.measured:
        result = GateResult("nothing to compare", reason=FIRST)
    elif current is not None and current.release_id == release_id:
        result = GateResult("nothing to compare", reason="production names it already")
    else:
        result = gate(current, current is before)
    compared = current.release_id if current else None
    if request.dry_run or not (result.passed or request.force):
        return Promotion(request, release_id, before, compared, result, dataset=manifest.dataset)
    change = Change(
        release_id,
        share=request.share,
        reason=request.reason,
        forced=not result.passed,
        findings=() if result.passed else result.findings,
        best_figures=result.best_figures(current.pointer.best_figures if current else ()),
    )
    pointer = store.change_channel(request.channel, change, before)
    return Promotion(request, release_id, before, compared, result, pointer, manifest.dataset)


def roll_back(store: ReleaseStore, name: str, reason: str = "") -> Rollback:
    """Point a channel at its last good release, with the share and best figures it had then.

    A rollback undoes one promotion: after two the channel names what it did two promotions before.

    Raises:
        NothingToReturnToError: there is no earlier good release.
        ChannelChangedError: somebody else changed the channel in the meantime.
    """
    before = store.read_channel(name)
    if before is None:
        raise NothingToReturnToError(
            f"channel {name} names no release; set it with: vireo release promote ID "
            f"--channel {name}"
        )
    gone = []
    revision = before.pointer.returns_to
    while revision is not None and (record := store.channels.recorded(name, revision)) is not None:
        change = Change(
            record.release_id,
            action="rollback",
            share=record.share,
            reason=reason,
            returns_to=record.returns_to,
            best_figures=record.best_figures,
        )
        try:
            pointer = store.change_channel(name, change, before)
        except NotInStoreError:
            gone.append(record.release_id)
            earlier = record.returns_to
            # A record that leads to itself or to a later one is invalid.
            revision = earlier if earlier is not None and earlier < revision else None
        else:
            return Rollback(before, pointer, tuple(gone))
    raise NothingToReturnToError(_advice(before, gone))


def _advice(before: Channel, gone: list[str]) -> str:
    """Return what to do if no earlier release is left."""
    name, release_id = before.name, before.release_id
    removed = f" ({', '.join(gone)} was removed from the store)" if gone else ""
    end_canary = (
        f", or take its viewers away with: vireo release promote {release_id} "
        f"--channel {name} --share 0"
        if name == CANARY
        else ""
    )
    return (
        f"channel {name} has no release to go back to before {release_id}{removed}; "
        f"choose one of `vireo release list` and point the channel at it with: "
        f"vireo release promote ID --channel {name}{end_canary}"
    )
