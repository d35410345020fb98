"""How good the ranker's probabilities are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from training.evaluation.chain import ChainAnswers, TestViewers
from training.evaluation.metrics import auc, calibration_measures

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
_BINS = 10


def tasks(answers: ChainAnswers, viewers: TestViewers) -> dict[str, tuple[FloatArray, BoolArray]]:
    """Predicted probabilities and what happened, by task.

    `watch` is over every candidate of every viewer; `like` over the held-out videos, each of
    which was watched.
    """
    real = answers.ranked >= 0
    hits = (answers.ranked == viewers.targets[:, None])[real]
    return {
        "watch": (answers.watch[real], hits),
        "like": (answers.target_like, viewers.liked),
    }


def ranker_measures(answers: ChainAnswers, viewers: TestViewers) -> dict[str, float]:
    """Return AUC and calibration of each task, and how many targets retrieval found.

    The AUC of a task whose labels are all alike isn't defined, and left out.
    """
    found = (answers.candidates == viewers.targets[:, None]).any(1)
    measures = {"candidate_recall": float(found.mean())}
    numbers = np.arange(len(viewers.ids))
    asked = {"watch": np.nonzero(answers.ranked >= 0)[0], "like": numbers}
    for task, (predicted, happened) in tasks(answers, viewers).items():
        measures[f"{task}_auc"] = auc(predicted, happened)
        measures |= calibration_measures(task, predicted, happened, asked[task])
    return {name: value for name, value in measures.items() if np.isfinite(value)}


def calibration(
    answers: ChainAnswers, viewers: TestViewers
) -> Mapping[str, list[dict[str, float]]]:
    """Predicted and observed rate of each task, in ten bins of equally many predictions."""
    curves = {}
    for task, (predicted, happened) in tasks(answers, viewers).items():
        bins = [part for part in np.array_split(np.argsort(predicted), _BINS) if len(part)]
        curves[task] = [
            {
                "predicted": float(predicted[part].mean()),
                "observed": float(happened[part].mean()),
                "n": len(part),
            }
            for part in bins
        ]
    return curves
