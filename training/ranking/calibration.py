"""Turn logits into honest probabilities: one scale and one offset a task (Platt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

from training.evaluation.metrics import calibration_measures
from training.ranking.batches import Batches, chunks
from training.ranking.model import Ranker
from training.ranking.training_set import RankingSet

_SHRINKAGE = 1e-3
"""Pull to scale 1 per example, so that a handful of labels can't turn the order around."""
_SMALLEST_SCALE = 1e-2


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The scale (above 0, so that no order changes) and offset of least cross-entropy.

    Args:
        logits: float32[m].
        labels: float32[m], 0 or 1.

    Returns:
        (1, 0) where there are no examples of one of the two kinds.
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
    return max(float(log_scale.detach().exp()), _SMALLEST_SCALE), float(offset.detach())


TASKS = ("watch", "like")
"""In the order of the model's calibration."""
FOLDS = 5
"""Parts of the viewers for whom calibration is measured, each by a fit on the others."""
MAX_LISTS = 20_000
"""Lists that watches are calibrated on, at most: enough for their mean to be off by no more than
a hundredth, and few enough to be held in memory."""


def calibrate(model: Ranker, batches: Batches, data: RankingSet) -> dict[str, float]:
    """Fit the model's scale and offset of each task, on every label event of the set.

    The batches must have features as they are served. The model learned from those of each
    label's moment, and a release has one table, of its newest snapshot: by then videos are older
    and less is watched of late, which shifts all logits, although no viewer watches less for it.

    Returns:
        How well calibrated viewers are whom scale and offset weren't fitted on, by the names of
        `calibration_measures`: each of FOLDS is measured by a fit on the others. What is kept in
        the model is fitted on all of them.
    """
    measures: dict[str, float] = {}
    for place, task in enumerate(_task_logits(model, batches, data)):
        model.calibration[place] = torch.tensor(fit_platt(task.logits, task.labels))
        probabilities = _out_of_fold(task).numpy()
        measures |= calibration_measures(
            TASKS[place], probabilities, task.labels.numpy() > 0, task.viewers.numpy()
        )
    return measures


@dataclass(frozen=True)
class _Task:
    """The label events of one task, m of them."""

    logits: Tensor
    """Before calibration, float32[m]."""
    labels: Tensor
    """0 or 1, float32[m]."""
    viewers: Tensor
    """Number of each event's viewer, int64[m]."""


def _out_of_fold(task: _Task) -> Tensor:
    """Probabilities, each by a calibration fitted on other folds of viewers, float32[m]."""
    folds = task.viewers % FOLDS
    probabilities = torch.zeros_like(task.logits)
    for fold in range(FOLDS):
        own = folds == fold
        scale, offset = fit_platt(task.logits[~own], task.labels[~own])
        probabilities[own] = torch.sigmoid(task.logits[own] * scale + offset)
    return probabilities


@torch.no_grad()
def _task_logits(model: Ranker, batches: Batches, data: RankingSet) -> tuple[_Task, _Task]:
    """Return the events of both tasks, in the order of TASKS; empty if there are none."""
    model.eval()
    nothing = _Task(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
    watch, like = [nothing], [nothing]
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
        watch.append(_Task((order + level)[real], target[real].float(), viewer[real]))
    for places in chunks(np.arange(len(data.likes.rows)), 1024):
        _, _, logit = model.logits(batches.like_inputs(data.likes, places))
        liked = torch.from_numpy(data.likes.liked[places].astype(np.float32))
        viewer = torch.from_numpy(data.likes.viewers.viewer[places])
        like.append(_Task(logit[:, 0], liked, viewer))
    return _joined(watch), _joined(like)


def _joined(parts: list[_Task]) -> _Task:
    return _Task(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.viewers for part in parts]),
    )
