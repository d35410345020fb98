"""The fit that viewers are served: of every watch, going on from the measured one.

The towers start from the measured fit's and learn from every watch, its test and validation
watches among them, for a few more epochs. The tables are counted anew. The ranker stays as it is:
its labels must be new to the towers, and now no watch is. So few epochs at so low a rate hardly
move the vectors that it reads. Nothing is left to measure the result on; `bench/refit.py`
measures the same step one watch earlier.
"""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from server.home import Home
from server.releases.manifest import Manifest
from training.data.dataset import Dataset
from training.inputs import Inputs, ensure_features
from training.profile import Profile
from training.release.measured import add_measured
from training.release.stage import finish_release, take_ranker
from training.retrieval.config import RetrievalConfig
from training.retrieval.ensemble import train_towers
from training.run import Run, fingerprint

EPOCHS_SHARE = 1 / 8
"""Of the first fit's epochs, and at least one."""
RATE_SHARE = 1 / 4
"""Of the first fit's learning rate; it falls to zero from the start."""


def refit(
    home: Home, measuring: Home, dataset: Dataset, settings: Profile, console: Console
) -> Manifest:
    """Fit to every watch, stage the release in `home`, and return its manifest.

    Args:
        home: where features of every watch and the run lie.
        measuring: where the measured fit has left its run; its release becomes a part of this
            one.
        dataset: what to learn from.
        settings: those of the measured fit.
        console: where the steps are announced.

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call goes on from there.
        VireoError: anything else that the user can mend.
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
    model = train_towers(inputs.data, config, run.checkpoints, console, start=measured.checkpoints)
    inputs.stage_retrieval(model)
    take_ranker(run.draft, measured.release, inputs.data)
    metrics = add_measured(run.draft, measured.release)
    manifest = finish_release(run.draft, run.release, metrics)
    run.mark_finished(made_of, manifest)
    return manifest


def refit_config(config: RetrievalConfig) -> RetrievalConfig:
    """Return the settings of the epochs that go on from a training with `config`."""
    return replace(
        config,
        epochs=max(1, round(config.epochs * EPOCHS_SHARE)),
        max_minutes=None,
        learning_rate=config.learning_rate * RATE_SHARE,
        constant_share=0.0,
    )
