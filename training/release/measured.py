"""The measured twin inside a release: the same settings, fitted without the held-out watches.

The served models are trained on every watch, so nothing is left to measure them on. Their figures
are those of the twin, a complete release inside the release's folder: the gate measures the twins
of both releases on the same held-out watches. Pods never fetch it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from server.releases import layout
from server.releases.manifest import Manifest


def add_measured(folder: Path, measured: Path) -> dict[str, float]:
    """Add the measured twin to a staged release and return its metrics.

    The files of `measured`, the twin's finished release, are hard-linked if possible, else copied.

    Raises:
        ReleaseError: the twin is missing or can't be read.
    """
    manifest = Manifest.read(measured)
    place = folder / layout.MEASURED
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(measured, place, copy_function=_link)
    staged = Manifest.read(folder)
    staged.model_copy(update={"measured": manifest.release_id}).write(folder)
    return dict(manifest.metrics)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
