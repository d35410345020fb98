"""Rolling a channel back to the previous release, skipping what was itself rolled back from."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.server.errors import VireoError
from vireo.server.releases.channels import CANARY, Change, Channel, ChannelPointer
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import NotInStoreError


class NothingToReturnToError(VireoError):
    """A channel has no earlier good release; the message says what to do instead."""


@dataclass(frozen=True)
class Rollback:
    """Result of a rollback."""

    before: Channel
    pointer: ChannelPointer
    """What the channel holds now."""
    gone: tuple[str, ...]
    """Earlier releases that were skipped, since they are no longer in the store."""


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
