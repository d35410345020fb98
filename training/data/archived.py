"""The archive of slates and events, from the bucket to a folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from vireo.server.consumer.archive_files import ROOT, ArchiveFile, files_of
from vireo.server.releases.bucket import Bucket


def fetch(
    bucket: Bucket,
    kind: str,
    since: datetime | None,
    folder: Path,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[Path]:
    """Return the files of a kind, by name, once they are in a folder; what is there stays.

    Args:
        bucket: where the archive is.
        kind: "slates" or "events".
        since: files of hours that ended before this are left out; None for all.
        folder: they are in KIND/date=YYYY-MM-DD/hour=HH below it.
        progress: called with the number of files that are there, and that of all.

    Raises:
        StoreError: S3 fails.
    """
    files = [*files_of(bucket, kind, since.timestamp() if since else 0.0)]
    paths = list[Path]()
    for number, file in enumerate(files):
        progress(number, len(files))
        paths.append(_fetched(bucket, file, folder))
    progress(len(files), len(files))
    return paths


def _fetched(bucket: Bucket, file: ArchiveFile, folder: Path) -> Path:
    stored = file.stored
    path = folder / stored.name.removeprefix(ROOT)
    there = path.stat() if path.exists() else None
    # An erasure rewrites files.
    if there and there.st_size == stored.size and there.st_mtime >= stored.modified.timestamp():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as content:
        content.writelines(bucket.read(stored.name))
    return partial.replace(path)
