"""`vireo archive`: slates and events that consumers have stored as Parquet files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_json, print_table, progress_bar, remark, table_of
from vireo.ops.stack.s3 import open_store
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket

app = typer.Typer(no_args_is_help=True)

_HOW = "have all slates recorded with VIREO_SLATE_SHARE=1 of gateways and consumers"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class _Kind(StrEnum):
    SLATES = "slates"
    EVENTS = "events"


KindOption = Annotated[
    _Kind | None,
    typer.Option("--kind", help="Kind of files; by default both.", show_default=False),
]
LastOption = Annotated[
    str,
    typer.Option(
        "--last", metavar="TIME", help="Only the last 90m, 24h or 7d.", show_default=False
    ),
]
ArchiveOption = Annotated[
    Path | None,
    typer.Option(
        "--archive", help="Folder of `vireo archive fetch`; by default the bucket is read."
    ),
]


def time_of(last: str) -> datetime | None:
    """Return when a time such as "24h" began; None if it is empty."""
    if not last:
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}[mhd]", last):
        raise typer.BadParameter(f"--last is {last}; write 90m, 24h or 7d")
    return datetime.now(UTC) - timedelta(**{_UNITS[last[-1]]: int(last[:-1])})


@app.command("list")
def list_(kind: KindOption = None, last: LastOption = "", as_json: JsonOption = False) -> None:
    """List the archive's files by the hour in which the log stored what they have, UTC.

    vireo archive list --kind slates --last 24h
    """
    from vireo.server.consumer.archive_files import files_of

    since = time_of(last)
    hours = defaultdict[tuple[datetime, str], list[int]](list)
    with open_store() as store:
        for each in _kinds(kind):
            for file in files_of(store.bucket, each, since.timestamp() if since else 0.0):
                hours[file.hour, each].append(file.stored.size)
    found = sorted(hours.items())
    if as_json:
        print_json(
            [
                {"hour": hour, "kind": each, "files": len(sizes), "bytes": sum(sizes)}
                for (hour, each), sizes in found
            ]
        )
        return
    if not found:
        remark(f"nothing of this time is archived; {_HOW}")
        return
    table = table_of("hour", "kind", "files", "bytes", numbers=("files", "bytes"))
    for (hour, each), sizes in found:
        table.add_row(f"{hour:%Y-%m-%d %H}", each, f"{len(sizes):,}", f"{sum(sizes):,}")
    print_table(table)


@app.command()
def fetch(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to: below slates/ and events/.")
    ],
    kind: KindOption = None,
    last: LastOption = "",
    as_json: JsonOption = False,
) -> None:
    """Download the archive's files, but for those that are there, for pandas, DuckDB or Spark.

    Below each of the two folders there are date=YYYY-MM-DD/hour=HH, as they read partitions.

    vireo archive fetch traffic --kind slates --last 7d
    """
    since = time_of(last)
    with open_store() as store:
        found = {each: _fetched(store.bucket, each, since, folder) for each in _kinds(kind)}
    if not any(found.values()):
        raise VireoError(f"nothing of this time is archived; choose more with --last, or {_HOW}")
    if as_json:
        print_json({each: [str(file) for file in files] for each, files in found.items()})
        return
    for each, files in found.items():
        typer.echo(f"{folder / each}: {len(files):,} files of the archive")


@contextmanager
def archived(
    folder: Path | None, since: datetime | None, *kinds: str
) -> Iterator[dict[str, list[Path]]]:
    """Yield the files of kinds since a time: those of a folder, or else of the bucket."""
    if folder:
        hour = f"{since:date=%Y-%m-%d/hour=%H}" if since else ""
        yield {
            kind: sorted(
                file
                for file in folder.glob(f"**/{kind}/date=*/hour=*/*.parquet")
                if "/".join(file.parts[-3:-1]) >= hour
            )
            for kind in kinds
        }
        return
    with TemporaryDirectory() as temporary, open_store() as store:
        yield {kind: _fetched(store.bucket, kind, since, Path(temporary)) for kind in kinds}


def _kinds(kind: _Kind | None) -> list[str]:
    return [str(each) for each in _Kind if kind in (None, each)]


def _fetched(bucket: Bucket, kind: str, since: datetime | None, folder: Path) -> list[Path]:
    from vireo.server.consumer.archive_files import fetch as fetched

    with progress_bar(f"fetching {kind}") as progress:
        return fetched(bucket, kind, since, folder, progress)
