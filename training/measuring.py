"""The home of measured fits, whose features and runs exclude each viewer's last watch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vireo.server.home import Home


def measuring_home(home: Home) -> Home:
    """Return the home of `home`'s measured fits; create it if missing.

    It shares the data sets but not the features: measuring needs what was known before the
    held-out watches, serving needs everything known now.
    """
    measuring = home.measuring
    measuring.root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (measuring.root / "data").symlink_to(Path("..") / "data", target_is_directory=True)
    return measuring
