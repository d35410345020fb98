"""Which release ids are allowed: they are parts of object names and paths."""

from __future__ import annotations

import re

from server.releases.fields import RELEASE_ID
from server.releases.manifest import ReleaseError


def check_release_id(release_id: str) -> None:
    """Raise ReleaseError unless `release_id` is fit to be part of a path."""
    if not re.fullmatch(RELEASE_ID, release_id):
        raise ReleaseError(
            f"{release_id!r} can't be a release id; use letters, digits, dots, dashes and "
            "underscores, 128 at most"
        )
