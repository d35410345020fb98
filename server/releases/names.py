"""What releases and channels may be called: names are parts of object names and paths."""

from __future__ import annotations

import re

from server.releases.manifest import ReleaseError

RELEASE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
CHANNEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"


def check_release_id(release_id: str) -> None:
    """Raises ReleaseError unless `release_id` is fit to be part of a path."""
    if not re.fullmatch(RELEASE_ID, release_id):
        raise ReleaseError(
            f"{release_id!r} can't be a release id; use letters, digits, dots, dashes and "
            "underscores, 128 at most"
        )
