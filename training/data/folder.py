"""Atomic replacement of a folder: readers see the old one or the new one, nothing between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import VireoError


@contextmanager
def replaced_folder(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it when the block ends.

    If the block fails, the new folder is removed and `target` stays unchanged.

    Args:
        target: the folder to replace.
        private: let only its owner into it and into the folder that it is in; the latter stays as
            it is if somebody else owns it, as they do the root of a volume.

    Raises:
        VireoError: the file system refuses, for example because the disk is full.
    """
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if private and target.parent.stat().st_uid == os.geteuid():
            target.parent.chmod(0o700)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        if not private:
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
