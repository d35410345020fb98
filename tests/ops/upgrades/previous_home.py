"""What the previous build left behind, unpacked: see `make_previous`."""

from __future__ import annotations

import tarfile
from pathlib import Path

from vireo.server.home import Home

_ARCHIVE = Path(__file__).parent / "previous.tar.gz"


def unpack_previous(folder: Path) -> Home:
    """Unpacks it, and returns its home; `objects` and `messages` lie beside the usual folders."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Home(folder / "home")
