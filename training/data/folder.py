"""Writing a folder so that readers see the old one or the new one, never a half of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import VireoError


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place once the block is done.

    When the block fails, the new folder is removed and `target` stays as it was.

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
        if not target.exists():  # whatever came between, Ctrl-C too
            (retired / "old").rename(target)
        shutil.rmtree(retired, ignore_errors=True)
