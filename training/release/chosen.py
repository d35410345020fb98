"""Puts the int8 variant in a model's place where it is chosen, with goldens of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from server.candidate.release import CandidateRelease
from server.inference.model import Model
from server.inference.signature import VIDEOS, ranker_signature, tower_signature
from server.ranking.release import RankingRelease
from server.releases import layout
from server.releases.precision import ModelPrecision
from training.ranking.training_set import RankingSet
from training.release.config import PrecisionChoice
from training.release.goldens import answer_goldens
from training.release.precision import BOUNDS, TIME, Bounds, decided, differences, time_difference
from training.release.quantise import write_int8
from training.release.trial import RankerTrial, TowerTrial, Trial
from training.retrieval.data import RetrievalData

_VARIANT = "int8.onnx"
"""Beside the model: ONNX Runtime reads the videos' vectors from its own folder alone."""


def choose_tower(
    folder: Path, data: RetrievalData, choice: PrecisionChoice, bounds: Bounds = BOUNDS
) -> CandidateRelease:
    """The release in `folder`, whose viewer tower is in float32, with the one that it serves.

    What was chosen, and why, is in its manifest.
    """
    release = CandidateRelease.load(folder)
    signature = tower_signature(release.vectors.shape[1])

    def load(path: Path) -> Model:
        return Model(path, signature, {VIDEOS: release.vectors})

    def trial(variant: Path) -> Trial:
        return TowerTrial(release, load(variant), data.validation)

    model, golden = folder / layout.VIEWER_TOWER, folder / layout.GOLDEN_VIEWER_TOWER
    precision = _chosen(model, golden, choice, bounds, trial, load)
    precisions = release.manifest.precision.model_copy(update={"viewer_tower": precision})
    release.manifest.model_copy(update={"precision": precisions}).write(folder)
    return CandidateRelease.load(folder)


def choose_ranker(
    folder: Path, data: RankingSet, choice: PrecisionChoice, bounds: Bounds = BOUNDS
) -> RankingRelease:
    """As `choose_tower`, of the ranker, by lists and likes of its training set."""
    release = RankingRelease.load(folder)
    manifest, signature = release.manifest, ranker_signature(release.table.vectors.shape[1])

    def load(path: Path) -> Model:
        return Model(path, signature)

    def trial(variant: Path) -> Trial:
        vectors = release.table.vectors.astype(np.float32, copy=False)
        return RankerTrial(release.ranker, load(variant), data, vectors, manifest.score_weights)

    model, golden = folder / layout.RANKER, folder / layout.GOLDEN_RANKER
    precision = _chosen(model, golden, choice, bounds, trial, load)
    precisions = manifest.precision.model_copy(update={"ranker": precision})
    manifest.model_copy(update={"precision": precisions}).write(folder)
    return RankingRelease.load(folder)


def _chosen(
    model: Path,
    golden: Path,
    choice: PrecisionChoice,
    bounds: Bounds,
    trial: Callable[[Path], Trial],
    load: Callable[[Path], Model],
) -> ModelPrecision:
    """Tries the variant of the float32 model at `model`, and leaves there what is chosen."""
    variant = model.with_name(_VARIANT)
    if choice == "float32":
        return decided(choice, {}, 0, bounds)
    try:
        if not write_int8(model, variant):
            return ModelPrecision(why="no matrix is large enough to gain by int8")
        precision = _decided(choice, trial(variant), bounds)
        if precision.chosen == "float32":
            return precision
        # PyTorch's answers are rounded otherwise, by as much as a pod's may be.
        moved = answer_goldens(load(variant), golden)
        variant.replace(model)
        tolerance = max(layout.GOLDEN_TOLERANCE, moved)
        return precision.model_copy(update={"golden_tolerance": tolerance})
    finally:
        variant.unlink(missing_ok=True)


def _decided(choice: PrecisionChoice, trial: Trial, bounds: Bounds) -> ModelPrecision:
    """What comes of the trial; lists aren't compared where something else decides already."""
    viewers = trial.viewers()
    if viewers < bounds.viewers:
        return decided(choice, {}, viewers, bounds)
    measures = {TIME: time_difference(trial.seconds(), bounds)}
    if choice == "auto" and measures[TIME].worse_by > bounds.time:
        return decided(choice, measures, viewers, bounds)
    return decided(choice, measures | differences(trial.answers(), bounds), viewers, bounds)
