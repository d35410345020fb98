"""Fits of both models to a small data set, in seconds."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from tests.builders.datasets import VIDEO_COUNT
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import load_dataset
from vireo.training.fit import fit, seeded
from vireo.training.profile import load_profile


def fit_measured(
    home: Home, dataset: str, *, seed: int | None = None, console: Console | None = None
) -> Manifest:
    """Fit to a data set of `home`, features and run in `home` itself; return the manifest."""
    settings = seeded(load_profile("quick"), seed)
    # The data sets have no more videos, and a value other than the default shows its origin.
    settings = replace(settings, ranking=replace(settings.ranking, candidates=VIDEO_COUNT))
    console = console or Console(quiet=True)
    # Interactions of some tests are random: nothing beats the most watched videos.
    return fit(home, load_dataset(home, dataset), settings, console, force=True)
