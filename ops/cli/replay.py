"""`vireo replay`: archived slates made again, by their own release or by a new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
import typer

from vireo.ops.cli.archive import ArchiveOption, LastOption, archived, time_of
from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_json, progress_bar
from vireo.ops.cli.release.promote import release_of
from vireo.ops.cli.release.verification import PODS
from vireo.ops.stack.s3 import open_store
from vireo.server.consumer.archived_rows import SLATE_ROWS, Row, rows_in
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.store import ReleaseStore
from vireo.training.evaluation.replay import (
    Changed,
    Difference,
    Replayed,
    Replayer,
    changed,
    replayed,
)

_FILES = tuple({*PODS["candidate"][0], *PODS["ranking"][0]})
_SHOWN = 5
"""Differences that are printed."""


def replay(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID", help="The slate's request_id; all of --last without it."
        ),
    ] = "",
    release: Annotated[
        str,
        typer.Option(
            metavar="RELEASE",
            help="Say what this release, or that of a channel, would have answered instead.",
        ),
    ] = "",
    last: LastOption = "",
    sample: Annotated[
        int, typer.Option(min=1, help="Maximum slates; of more, evenly many of all the time.")
    ] = 10_000,
    min_overlap: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Fail if RELEASE answers a smaller share of the same videos."
        ),
    ] = 0.0,
    archive: ArchiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make archived slates again, and say at which stage and value they differ.

    The same release gives the same slate, bit for bit: if not, what served it wasn't what is
    stored, and the command fails. With --release it compares a new release's slates with them.

    vireo replay --last 1h

    vireo replay --release canary --last 1h --min-overlap 0.3
    """
    since = time_of(last or ("" if archive else "1h"))
    with archived(archive, since, "slates") as files, open_store() as store:
        rows = slates_of(files["slates"], request_id, since, sample)
        if release:
            release_id = release_of(store, release)
            store.check_published(release_id)
            again = loaded_releases(store, [release_id])[release_id]
            pages = [changed(row, again) for row in counted("replaying", rows)]
            _show_change(pages, release_id, min_overlap, as_json=as_json)
        else:
            releases = loaded_releases(store, {name for row in rows for name in releases_of(row)})
            slates = [replayed(row, releases) for row in counted("replaying", rows)]
            _show_replayed(slates, as_json=as_json)


def slates_of(
    files: Sequence[Path], request_id: str, since: datetime | None, limit: int
) -> list[Row]:
    """Return slates in the order of their times: those of a request, or `limit` of all.

    Raises:
        VireoError: there are none.
    """
    slates = rows_in(SLATE_ROWS, files)
    if request_id:
        slates = slates.filter(pc.field("request_id") == request_id)
    elif since is not None:
        slates = slates.filter(pc.field("answered_at") >= since)
    total = slates.count_rows()
    if not total:
        which = f"no slate of request {request_id!r}" if request_id else "no slates"
        raise VireoError(f"the archive has {which} of this time; choose more with --last")
    count = min(limit, total)
    rows: list[Row] = slates.take(np.arange(count) * total // count).to_pylist()
    return sorted(rows, key=lambda row: row["answered_at"])


def releases_of(row: Row) -> set[str]:
    """Return the releases that answered a slate; none if it has no candidates."""
    return {row["retrieval_release_id"], row["release_id"]} if row["candidate_keys"] else set()


def loaded_releases(store: ReleaseStore, names: Collection[str]) -> dict[str, Replayer]:
    """Return releases, from this home's cache or the bucket."""
    cache = ReleaseCache(Home.current().cache, keep=len(names) + 1)
    loaded = {}
    for name in sorted(names):
        with suppress(NotInStoreError):  # slates of others are replayed
            loaded[name] = Replayer(cache.fetch(store, name, _FILES))
    return loaded


def counted(what: str, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield slates, beside a bar that says what happens to them."""
    with progress_bar(what, len(rows)) as progress:
        for number, row in enumerate(rows, start=1):
            yield row
            progress(number, len(rows))


def _show_replayed(slates: Sequence[Replayed], *, as_json: bool) -> None:
    """Print how many slates are the same; raise VireoError if one isn't."""
    skipped = Counter(each.skipped for each in slates if each.skipped)
    differences = [each.difference for each in slates if each.difference is not None]
    same = len(slates) - skipped.total() - len(differences)
    near = sum(not each.exact for each in slates if not each.skipped and each.difference is None)
    if as_json:
        counts = {"slates": len(slates), "equal": same, "near": near, "skipped": skipped}
        print_json({**counts, "differences": differences})
    else:
        typer.echo(f"{same:,} of {len(slates):,} slates are the same")
        if near:
            typer.echo(f"{near:,} of them within rounding: another kind of processor made them")
        for reason, number in skipped.items():
            typer.echo(f"{number:,} can't be made again: {reason}")
    refuse(differences)


def refuse(differences: Sequence[Difference]) -> None:
    """Raise VireoError if there are differences, with the first ones."""
    if differences:
        texts = "; ".join(map(str, differences[:_SHOWN]))
        raise VireoError(f"slates that differ: {len(differences):,}; {texts}")


def _show_change(
    pages: Sequence[Changed | None], release_id: str, least: float, *, as_json: bool
) -> None:
    """Print how a new release's slates differ; raise VireoError if they share too little."""
    slates = [each for each in pages if each is not None]
    if not slates:
        raise VireoError("none of the slates was ranked: there is nothing to compare")
    overlap, shift = fmean(each.overlap for each in slates), fmean(each.shift for each in slates)
    if as_json:
        counts = {"slates": len(slates), "notRanked": len(pages) - len(slates)}
        means = {"meanOverlap": overlap, "meanScoreShift": shift}
        print_json({"releaseId": release_id, **counts, **means})
    else:
        typer.echo(f"{release_id} over {len(slates):,} slates that were ranked, of {len(pages):,}:")
        typer.echo(f"  {overlap:.1%} of the videos are the same")
        typer.echo(f"  its mean score is {shift:+.4f} to theirs")
    if overlap < least:
        raise VireoError(
            f"{release_id} answers {overlap:.1%} of the same videos, less than --min-overlap "
            f"{least:g}"
        )
