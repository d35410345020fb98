"""Keeps the cache of releases within bounds by deleting what is no longer needed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import structlog

from vireo.server.releases.download import PART, open_folder, try_lock

log = structlog.get_logger()

_STALE_SECONDS = 3600.0
"""Age after which something unfinished counts as abandoned."""
_UNLINKED_SECONDS = 60.0
"""Age after which a blob that no release links counts as garbage, not as about to be linked."""


def prune(root: Path, keep: int) -> list[str]:
    """Delete releases, blobs and partial downloads that are no longer needed.

    Args:
        root: the cache's folder.
        keep: number of releases to keep, the most recently used, besides those in `last/`.

    Returns:
        The ids of the releases that were deleted.
    """
    noted = _noted(root)
    others = [folder for folder in root.glob("releases/*") if folder.name not in noted]
    others.sort(key=_age)
    gone = [folder for folder in others[keep:] if _delete_unless_used(root, folder)]
    for blob in root.glob("blobs/*"):
        if blob.suffix == PART:
            if _age(blob) > _STALE_SECONDS:
                _delete_unless_written(blob)
        elif _age(blob) > _UNLINKED_SECONDS and _links(blob) == 1:
            blob.unlink(missing_ok=True)
    for part in (*root.glob(f"releases/**/*{PART}"), *root.glob(f"last/*/*{PART}")):
        if _age(part) > _STALE_SECONDS:
            part.unlink(missing_ok=True)
    if gone:
        log.info("releases pruned from the cache", releases=[folder.name for folder in gone])
    return [folder.name for folder in gone]


def _noted(root: Path) -> set[str]:
    """Return the releases that pods of this machine served last."""
    return {
        note.read_text(errors="replace")
        for note in root.glob("last/*/*")
        if note.is_file() and note.suffix != PART
    }


def _delete_unless_used(root: Path, folder: Path) -> bool:
    """Delete a release unless a pod fetches, opens or records it; return whether it was deleted."""
    with open_folder(folder) as opened:
        if opened is None or not try_lock(opened):
            return False
        # A pod holds a release's lock while it records it: one unrecorded now stays unrecorded.
        if folder.name in _noted(root):
            return False
        # A file that can't be deleted now is deleted the next time.
        shutil.rmtree(folder, ignore_errors=True)
        return True


def _delete_unless_written(part: Path) -> None:
    try:
        with part.open("r+b") as file:
            if try_lock(file):
                part.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # its download completed, or another pod deleted it


def _age(path: Path) -> float:
    """Return the seconds since its last use; 0 if it no longer exists."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0
