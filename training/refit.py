"""The fit that is served: it continues the measured fit on every watch.

The towers start from the measured fit's weights and train a few more epochs on every watch,
validation and test watches included. The tables are recounted. The ranker is kept: its labels
must be unseen by the towers, and now no watch is. A few epochs at a low learning rate hardly move
the vectors that it reads. No watch is left to measure the result on: docs/recommendations.md
has what the same step did one watch earlier.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import Dataset
from vireo.training.inputs import Inputs, ensure_features
from vireo.training.profile import Profile
from vireo.training.release.stage import finish_release, take_ranker
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.train import train_retrieval
from vireo.training.run import Run, fingerprint

EPOCHS_SHARE = 1 / 8
"""Epochs and steps as a share of the first fit's; at least one epoch."""
RATE_SHARE = 1 / 4
"""Learning rate as a share of the first fit's; it decays to zero from the start."""


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


def refit(
    home: Home, measuring: Home, dataset: Dataset, settings: Profile, console: Console
) -> Manifest:
    """Fit to every watch, stage the release in `home`, and return its manifest.

    `measuring` is the home of the measured fit, whose release becomes part of this one; `settings`
    are that fit's.

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        VireoError: any other error that the user can fix.
    """
    measured = Run(measuring.run(dataset.name))
    twin = Manifest.read(measured.release)
    inputs = Inputs.of(home, dataset, settings, ensure_features(home, dataset, "none", console))
    made_of = fingerprint(inputs.fingerprint, twin.release_id)
    run = inputs.run
    manifest = run.finished(made_of)
    if manifest:
        console.print(f"nothing to do: {manifest.release_id} goes on from {twin.release_id}")
        return manifest
    config = refit_config(settings.retrieval)
    model = train_retrieval(
        inputs.data, config, run.checkpoints, console, start=measured.checkpoints
    )
    staged = inputs.stage_retrieval(model, twin.quotas)
    take_ranker(staged, measured.release, inputs.data)
    metrics = add_measured(run.draft, measured.release)
    manifest = finish_release(run.draft, run.release, metrics)
    run.mark_finished(made_of, manifest)
    return manifest


def refit_config(config: RetrievalConfig) -> RetrievalConfig:
    """Return the settings that continue a training with `config`."""
    return replace(
        config,
        epochs=max(1, round(config.epochs * EPOCHS_SHARE)),
        min_steps=round(config.min_steps * EPOCHS_SHARE),
        max_minutes=None,
        learning_rate=config.learning_rate * RATE_SHARE,
        constant_share=0.0,
    )
