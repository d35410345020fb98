"""The measured twin inside a release: the same settings, fitted without the held-out watches.

What is served holds out nothing, so nothing is left to measure it on. Its figures are those
of its twin, which lies whole in the release's folder: the gate asks the twins of both releases for
the same held-out watches. Pods never fetch it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from server.releases import layout
from server.releases.manifest import Manifest


def add_measured(folder: Path, measured: Path) -> dict[str, float]:
    """Put the measured twin into a staged release, and return its metrics.

    Args:
        folder: the staged release.
        measured: the twin's finished release; its files are linked if the disk can.

    Raises:
        ReleaseError: there is no twin.
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
