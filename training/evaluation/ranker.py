"""Quality of the ranker's probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.signals import OUTCOMES
from vireo.training.evaluation.chain import ChainAnswers, TestViewers
from vireo.training.evaluation.metrics import auc, calibration_measures

FloatArray = npt.NDArray[np.floating]
_BINS = 10


def tasks(
    answers: ChainAnswers, viewers: TestViewers
) -> dict[str, tuple[FloatArray, BoolArray, Int64Array]]:
    """Return predicted probabilities, outcomes and numbers of the viewers, by task.

    `watch` covers every candidate of every viewer; OUTCOMES the held-out videos, all of them
    watched, whose outcome is known. Those that the data or the release lacks are left out.
    """
    real = answers.ranked >= 0
    hits = (answers.ranked == viewers.targets[:, None])[real]
    found = {"watch": (answers.watch[real], hits, np.nonzero(real)[0])}
    for column, task in enumerate(OUTCOMES):
        labels, predicted = viewers.outcomes[:, column], answers.target_outcomes[:, column]
        known = np.flatnonzero(~np.isnan(labels) & ~np.isnan(predicted))
        if len(known):
            found[task.name] = (predicted[known], labels[known] > 0, known)
    return found


def ranker_measures(answers: ChainAnswers, viewers: TestViewers) -> dict[str, float]:
    """Return AUC and calibration of each task, and the share of targets that were retrieved.

    The AUC of a task whose labels are all equal is undefined and left out.
    """
    found = (answers.candidates == viewers.targets[:, None]).any(1)
    measures = {"candidate_recall": float(found.mean())}
    for task, (predicted, happened, numbers) in tasks(answers, viewers).items():
        measures[f"{task}_auc"] = auc(predicted, happened)
        measures |= calibration_measures(task, predicted, happened, numbers)
    return {name: value for name, value in measures.items() if np.isfinite(value)}


def calibration(answers: ChainAnswers, viewers: TestViewers) -> dict[str, list[dict[str, float]]]:
    """Return predicted and observed rate of each task, in ten bins of equally many predictions."""
    return {
        task: [
            {
                "predicted": float(predicted[part].mean()),
                "observed": float(happened[part].mean()),
                "n": len(part),
            }
            for part in np.array_split(np.argsort(predicted), _BINS)
            if len(part)
        ]
        for task, (predicted, happened, _) in tasks(answers, viewers).items()
    }
