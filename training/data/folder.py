"""Atomic replacement of a folder: readers see the old one or the new one, nothing between."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vireo.server.errors import VireoError
from vireo.server.home import keep_private

_DRAFT = ".draft."
_WORKING_FOLDER, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, to replace it after the block.

    It is for its owner only, and so is the folder that it is in; see `keep_private`.

    If the block fails, the new folder is removed and `target` stays unchanged; if the process is
    killed, the next replacement of `target` removes it.

    Raises:
        VireoError: the file system refuses, for example because the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        keep_private(target.parent)
        remove_abandoned_drafts(target.parent, target.name)
        with _draft(target) as draft:
            yield draft
            _swap(draft, target)
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(target: Path, error: OSError) -> VireoError:
    """Return the error to raise since the file system refused."""
    reason = error.strerror or str(error)
    return VireoError(
        f"cannot write {target}: {reason}; check free space and permissions there, or set "
        "VIREO_HOME to another folder"
    )


def remove_abandoned_drafts(parent: Path, name: str = "*") -> None:
    """Remove or restore what killed processes left of folders in `parent`, or of one of them."""
    for draft in parent.glob(f".{name}{_DRAFT}*"):
        # A process that works on a draft has it locked; one that begins hasn't, and it is empty.
        with suppress(OSError), _opened(draft) as number:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            target = parent / draft.name[1:].rpartition(_DRAFT)[0]
            last_copy = (draft / "old").exists() and not target.exists()
            if last_copy:  # killed between two renames, where folders can't be exchanged
                (draft / "old").rename(target)
            if last_copy or any(draft.iterdir()):
                shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}{_DRAFT}", dir=target.parent))
    try:
        with _opened(draft) as number:
            with suppress(OSError):  # without locks nobody takes it for abandoned either
                fcntl.flock(number, fcntl.LOCK_EX)
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def _swap(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
    elif not _exchanged(draft, target):
        with _draft(target) as retired:
            try:
                target.rename(retired / "old")
                draft.rename(target)
            finally:
                if not target.exists():  # after any failure, Ctrl-C included
                    (retired / "old").rename(target)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that a kill can't leave neither; False if unsupported.

    Linux can, on most file systems, but Python has no function for it.
    """
    try:
        exchange = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return not exchange(_WORKING_FOLDER, bytes(one), _WORKING_FOLDER, bytes(other), _EXCHANGE)
