"""Read files of untrusted size."""

from __future__ import annotations

from pathlib import Path

from server.errors import VireoError


class FileReadError(VireoError):
    """A file can't be read, or is too large."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's content.

    Raises:
        FileReadError: it can't be read, or has more than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise FileReadError(f"{path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise FileReadError(f"{path} has more than {max_bytes} bytes")
    return content
