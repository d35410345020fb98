"""Atomic replacement of a folder: readers see the old one or the new one, nothing between."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import VireoError


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it when the block ends.

    If the block fails, the new folder is removed and `target` stays unchanged.

    Raises:
        VireoError: the file system refuses, for example because the disk is full.
    """
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        draft.chmod(0o755)
        yield draft
        _swap(draft, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise VireoError(
            f"cannot write {target}: {reason}; check free space and permissions there"
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(retired / "old")
        draft.rename(target)
    finally:
        if not target.exists():  # after any failure, Ctrl-C included
            (retired / "old").rename(target)
        shutil.rmtree(retired, ignore_errors=True)
