"""Calibrate logits into probabilities by a scale and an offset for each task (Platt scaling)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

from vireo.training.metrics import calibration_measures
from vireo.training.ranking.loss import Batches, chunks
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.training_set import RankingSet

_SHRINKAGE = 1e-3
"""L2 regularisation towards scale 1, so that a few labels can't distort it."""
_MIN_SCALE = 1e-2

FOLDS = 5
"""Folds of the viewers for cross-validating the calibration."""
MAX_LISTS = 20_000
"""Maximum lists that watches are calibrated on: enough for an error of at most 1 % in their mean,
and few enough for memory."""


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the scale and offset of minimal cross-entropy; (1, 0) if all labels are the same.

    The scale is above 0, so that the order of logits is kept. Both arguments are float32[m].
    """
    positives = float(labels.sum())
    if not 0 < positives < len(labels):
        return 1.0, 0.0
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    values, wanted = logits.double(), labels.double()
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = F.binary_cross_entropy_with_logits(
            values * log_scale.exp() + offset, wanted, reduction="sum"
        )
        loss = loss / positives + _SHRINKAGE * log_scale.square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return max(float(log_scale.detach().exp()), _MIN_SCALE), float(offset.detach())


def calibrate(model: Ranker, batches: Batches, data: RankingSet) -> dict[str, float]:
    """Fit the model's scale and offset of each task on every label event of the set.

    Features are those of each label's time, as requests see them: pods serve the newest snapshot,
    but by then a label lies far back, its videos are older and have fewer recent watches, which
    shifts all logits although viewers watch no less.

    Returns:
        `calibration_measures` of each task, cross-validated: each of FOLDS folds of viewers is
        measured by a fit on the others. The fit kept in the model is on all of them.
    """
    measures: dict[str, float] = {}
    names = model.schema.tasks
    for place, task in enumerate(_task_logits(model, batches, data)):
        model.calibration[place] = torch.tensor(fit_platt(task.logits, task.labels))
        probabilities = _out_of_fold(task).numpy()
        measures |= calibration_measures(
            names[place], probabilities, task.labels.numpy() > 0, task.viewers.numpy()
        )
    return measures


class _Task(NamedTuple):
    """The m label events of one task."""

    logits: Tensor
    """Logits before calibration, float32[m]."""
    labels: Tensor
    """0 or 1, float32[m]."""
    viewers: Tensor
    """Number of each event's viewer, int64[m]."""


def _out_of_fold(task: _Task) -> Tensor:
    """Return probabilities calibrated by a fit on the other folds of viewers, float32[m]."""
    folds = task.viewers % FOLDS
    probabilities = torch.zeros_like(task.logits)
    for fold in range(FOLDS):
        own = folds == fold
        scale, offset = fit_platt(task.logits[~own], task.labels[~own])
        probabilities[own] = torch.sigmoid(task.logits[own] * scale + offset)
    return probabilities


@torch.no_grad()
def _task_logits(model: Ranker, batches: Batches, data: RankingSet) -> list[_Task]:
    """Return the events of each task whose outcomes are known; empty if there are none."""
    model.eval()
    nothing = _Task(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
    events = [[nothing] for _ in model.schema.tasks]
    lists = np.arange(len(data.watches.rows))
    if len(lists) > MAX_LISTS:
        lists = np.random.default_rng(0).choice(lists, MAX_LISTS, replace=False)
    for places in chunks(lists, 64):
        inputs, real = batches.watch_inputs(data.watches, places)
        order, level, _ = model.logits(inputs)
        label = torch.from_numpy(data.watches.label[places])
        target = torch.arange(order.shape[1]) == label[:, None]
        viewer = torch.from_numpy(data.watches.viewers.viewer[places])
        viewer = viewer[:, None].expand(real.shape)
        events[0].append(_Task((order + level)[real], target[real].float(), viewer[real]))
    for places in chunks(np.arange(len(data.outcomes.rows)), 1024):
        _, _, logits = model.logits(batches.outcome_inputs(data.outcomes, places))
        labels = torch.from_numpy(data.outcomes.labels[places])
        viewer = torch.from_numpy(data.outcomes.viewers.viewer[places])
        known = ~labels.isnan()
        for column, own in enumerate(known.T):
            events[1 + column].append(
                _Task(logits[own, 0, column], labels[own, column], viewer[own])
            )
    return [_Task(*map(torch.cat, zip(*parts, strict=True))) for parts in events]
