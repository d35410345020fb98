"""Train the ranker, first its linear part, then all of it, and select the best part for each task.

The loss can fall while the order at the top gets worse, since in a list of hundreds most of the
loss is due to low ranks. So a larger part of the model orders watches only if the NDCG@10 of
held-out viewers isn't lower; the options are the two-tower order, the linear part, and the whole.
Last, logits are calibrated into probabilities by a scale and an offset for each task (Platt
scaling).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from vireo.server.arrays import Float32Array
from vireo.server.releases.manifest import FeatureSchema
from vireo.server.signals import OUTCOMES, TASKS
from vireo.training.config import RankingConfig
from vireo.training.metrics import calibration_measures
from vireo.training.modules import Checkpoints, torch_threads
from vireo.training.progress import Bars
from vireo.training.ranking.loss import (
    Batches,
    HeldOut,
    Places,
    chunks,
    level_loss,
    listwise_loss,
    measure,
    outcome_loss,
    slate_loss,
)
from vireo.training.ranking.model import OutcomePart, Ranker, WatchPart
from vireo.training.ranking.training_set import CandidateLists, RankingSet

CURVE = "ranking_curve.jsonl"
CALIBRATION = "ranking_calibration.json"
_FIT_INPUT_LISTS = 512
"""Lists that the standardisation constants are fitted to."""
_SHRINKAGE = 1e-3
"""L2 regularisation towards scale 1, so that a few labels can't distort it."""
_MIN_SCALE = 1e-2
_MIN_RATE = 1e-3
"""Minimum share of plays that training starts from, and of none."""
FOLDS = 5
"""Folds of the viewers for cross-validating the calibration."""
MAX_LISTS = 20_000
"""Maximum lists that watches are calibrated on: enough for an error of at most 1 % in their mean,
and few enough for memory."""


@dataclass(frozen=True)
class TrainedRanker:
    """The selected model, and the metrics of each option on held-out viewers."""

    model: Ranker
    held_out: dict[str, HeldOut]
    """Metrics by part: "retrieval", "linear", "full"; and "chosen"."""
    calibration_error: dict[str, float]
    """Cross-validated calibration error (ECE) of each task over the label events."""

    def described(self) -> str:
        """Describe in one line what was selected and why."""
        before, now = self.held_out["retrieval"], self.held_out["chosen"]
        errors = ", ".join(
            f"{error:.4f} ({task})" for task, error in self.calibration_error.items()
        )
        return (
            f"selected on held-out viewers: {self.model.watch_part} for watches, NDCG@10 "
            f"{before.ndcg_10:.3f} -> {now.ndcg_10:.3f}; {self.model.outcome_part} for outcomes; "
            f"calibration error out of fold {errors}"
        )


class RankingTrainer:
    """The state of one training: model, optimiser and the best of each phase.

    Random numbers are seeded by (seed, phase, epoch), so that a resumed training equals an
    uninterrupted one.
    """

    @torch_threads(1)
    def __init__(
        self,
        data: RankingSet,
        vectors: Float32Array,
        schema: FeatureSchema,
        attribute_count: int,
        config: RankingConfig,
        checkpoints: Checkpoints,
    ) -> None:
        """Start from the retrieval order.

        Args:
            data: the training set.
            vectors: video vectors, float32[n, d].
            schema: the release's features; of its tasks, those that the data has labels of are
                kept.
            attribute_count: size of the attribute vocabulary.
            config: architecture and hyperparameters.
            checkpoints: an interrupted training resumes from these. CURVE and CALIBRATION are
                written beside them.
        """
        schema, data = with_known_tasks(schema, data)
        torch.manual_seed(config.seed)
        self.data, self.config, self.checkpoints = data, config, checkpoints
        self.batches = Batches(vectors)
        self.model = Ranker(config, schema, attribute_count)
        self.fit_lists, self.held_lists = _fit_and_held(data.watches)
        self.fit_outcomes, self.held_outcomes = _fit_and_held(data.outcomes)
        self.fit_slates = np.empty(0, np.intp)
        if data.shown is not None:
            self.fit_slates, _ = _fit_and_held(data.shown)
            rate = torch.tensor(np.nanmean(data.shown.played))
            nn.init.constant_(self.model.watch_surface, float(torch.logit(rate, eps=_MIN_RATE)))
        if len(self.fit_lists):
            sample = self.fit_lists[:_FIT_INPUT_LISTS]
            self.model.fit_inputs(*self.batches.inputs(data.watches, sample))
        self.curve: list[dict[str, float | str]] = []

    @torch_threads(1)
    def fit(self, console: Console) -> dict[str, HeldOut]:
        """Train the parts, select among them, and return the metrics of each.

        Without calibration, which doesn't change the order. Progress is shown on the console.
        """
        self.model.watch_part, self.model.outcome_part = "retrieval", "linear"
        held_out = {"retrieval": self.measure()}
        states: dict[str, dict[str, Tensor]] = {"retrieval": self.weights()}
        with Bars(console=console) as progress:
            for part in ("linear", "full"):
                floor = max(held.ndcg_10 for held in held_out.values())
                states[part], held_out[part] = self.phase(part, floor, progress)
                self.model.load_state_dict(states[part])
        choose(self.model, states, held_out)
        lines = [json.dumps(line) for line in self.curve]
        (self.checkpoints.folder / CURVE).write_text("".join(f"{line}\n" for line in lines))
        return held_out

    @torch_threads(1)
    def trained(self, console: Console) -> TrainedRanker:
        """Fit the model and calibrate it; write the measures of `calibrate` to CALIBRATION."""
        held_out = self.fit(console)
        measures = calibrate(self.model, self.batches, self.data)
        (self.checkpoints.folder / CALIBRATION).write_text(json.dumps(measures))
        errors = {task: measures[f"{task}_ece"] for task in self.model.schema.tasks}
        return TrainedRanker(self.model.eval(), held_out | {"chosen": self.measure()}, errors)

    def measure(self) -> HeldOut:
        """Measure the current model on held-out viewers."""
        places = self.held_lists, self.held_outcomes
        return measure(self.model, self.batches, self.data, *places)

    def phase(
        self, part: WatchPart, floor: float, progress: Progress
    ) -> tuple[dict[str, Tensor], HeldOut]:
        """Train one part; return the weights after its best epoch, and their metrics.

        The best epoch has the lowest held-out loss among those with an NDCG@10 of at least
        `floor`, or among all if none has, since it may still be better for outcomes.
        """
        outcome_part: OutcomePart = "full" if part == "full" else "linear"
        self.model.watch_part, self.model.outcome_part = part, outcome_part
        config = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.network_learning_rate if part == "full" else config.learning_rate,
            weight_decay=config.weight_decay,
        )
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.config.epochs)
        best: HeldOut | None = None
        best_state, stale, epoch = self.weights(), 0, 0
        phase = f"ranking_{part}"
        saved = self.checkpoints.read(phase)
        if saved:
            self.model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            falling.load_state_dict(saved["falling"])
            best, best_state = HeldOut(**saved["best"]), saved["best_state"]
            stale, epoch, self.curve = saved["stale"], saved["epoch"], saved["curve"]
        task = progress.add_task(f"ranker, {part} part", total=self.config.epochs, completed=epoch)
        while epoch < self.config.epochs and stale < self.config.patience:
            watch, outcome = self._epoch(optimizer, part, epoch)
            falling.step()
            now = self.measure()
            epoch += 1
            stale += 1
            if best is None or now.better_than(best, floor):
                best, best_state, stale = now, self.weights(), 0
            self.curve.append(
                {"part": part, "epoch": epoch, "watch_loss": watch, "outcome_loss": outcome}
                | {f"held_out_{name}": value for name, value in vars(now).items()}
            )
            self.checkpoints.write(
                phase,
                {
                    "model": self.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "falling": falling.state_dict(),
                    "best": vars(best),
                    "best_state": best_state,
                    "stale": stale,
                    "epoch": epoch,
                    "curve": self.curve,
                },
            )
            progress.update(
                task,
                completed=epoch,
                description=f"ranker, {part} part: watch {watch:.3f} (held-out "
                f"{now.watch_loss:.3f}), outcome {outcome:.3f} (held-out {now.outcome_loss:.3f})",
            )
        progress.update(task, completed=self.config.epochs)
        return best_state, best or self.measure()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the model's current weights and constants."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def _epoch(
        self, optimizer: torch.optim.Optimizer, part: WatchPart, epoch: int
    ) -> tuple[float, float]:
        """Pass once over the lists, with a batch of outcomes each step; return the mean losses."""
        seed = [self.config.seed, len(part), epoch]
        random = np.random.default_rng(seed)
        torch.manual_seed(int(random.integers(2**31)))
        outcome_batches = _endless(random, self.fit_outcomes, self.config.batch_likes)
        slate_batches = _endless(random, self.fit_slates, self.config.batch_slates)
        self.model.train()
        losses = []
        for places in chunks(random.permutation(self.fit_lists), self.config.batch_lists):
            inputs, real = self.batches.inputs(self.data.watches, places)
            label = torch.from_numpy(self.data.watches.label[places])
            order, level, _ = self.model.logits(inputs)
            watch = listwise_loss(order, real, label)
            # The level learns the overall probability of a watch, without affecting the order.
            total = watch + level_loss(order.detach() + level, real, label)
            some = next(outcome_batches)
            _, _, logit = self.model.logits(self.batches.inputs(self.data.outcomes, some)[0])
            labels = torch.from_numpy(self.data.outcomes.labels[some])
            outcome = outcome_loss(logit[:, 0], labels)
            total = total + outcome.sum()
            if self.data.shown is not None:
                some = next(slate_batches)
                plays, followed = slate_loss(self.model, self.batches, self.data.shown, some)
                # Normal of deviation 1: a few slates don't make a position matter.
                prior = self.model.watch_position.square().sum() / (2 * len(self.fit_slates))
                total = total + (plays + prior + followed.sum())
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append((watch.item(), outcome.sum().item()))
        watch_mean, outcome_mean = np.mean(losses, axis=0) if losses else (0.0, 0.0)
        return float(watch_mean), float(outcome_mean)


def _fit_and_held(lists: CandidateLists) -> tuple[Places, Places]:
    held = lists.viewers.held_out
    return np.flatnonzero(~held), np.flatnonzero(held)


def _endless(random: np.random.Generator, places: Places, size: int) -> Iterator[Places]:
    """Yield chunks of the places, in another order each time they have all been."""
    while True:
        yield from chunks(random.permutation(places), size)


def with_known_tasks(schema: FeatureSchema, data: RankingSet) -> tuple[FeatureSchema, RankingSet]:
    """Leave out the optional tasks of which all labels are the same, or unknown."""
    labels = data.outcomes.labels
    kept = [
        column
        for column, task in enumerate(OUTCOMES)
        if not task.optional or len(np.unique(labels[np.isfinite(labels[:, column]), column])) > 1
    ]
    tasks = (TASKS[0].name, *(OUTCOMES[column].name for column in kept))
    outcomes, shown = replace(data.outcomes, labels=labels[:, kept]), data.shown
    if shown is not None:
        shown = replace(shown, outcomes=shown.outcomes[..., kept])
    known = replace(data, outcomes=outcomes, shown=shown)
    return schema.model_copy(update={"tasks": tasks}), known


def choose(
    model: Ranker, states: dict[str, dict[str, Tensor]], held_out: dict[str, HeldOut]
) -> None:
    """Set the model, for each task, to the part that was best on held-out viewers.

    For watches, a larger part must have a lower loss and no lower NDCG@10.
    """
    model.watch_part = "retrieval"
    more: tuple[WatchPart, ...] = ("linear", "full")
    for part in more:
        before, now = held_out[model.watch_part], held_out[part]
        if now.watch_loss < before.watch_loss and now.ndcg_10 >= before.ndcg_10:
            model.watch_part = part
    outcome_parts: tuple[OutcomePart, ...] = ("linear", "full")
    model.outcome_part = min(outcome_parts, key=lambda part: held_out[part].outcome_loss)
    state = dict(states["full"])
    for name, source in (("watch", model.watch_part), ("outcome", model.outcome_part)):
        if source != "full":
            own = {key: value for key, value in states["linear"].items() if key.startswith(name)}
            state.update(own)
    model.load_state_dict(state)


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
        inputs, real = batches.inputs(data.watches, places)
        order, level, _ = model.logits(inputs)
        label = torch.from_numpy(data.watches.label[places])
        target = torch.arange(order.shape[1]) == label[:, None]
        viewer = torch.from_numpy(data.watches.viewers.viewer[places])
        viewer = viewer[:, None].expand(real.shape)
        events[0].append(_Task((order + level)[real], target[real].float(), viewer[real]))
    for places in chunks(np.arange(len(data.outcomes.rows)), 1024):
        _, _, logits = model.logits(batches.inputs(data.outcomes, places)[0])
        labels = torch.from_numpy(data.outcomes.labels[places])
        viewer = torch.from_numpy(data.outcomes.viewers.viewer[places])
        known = ~labels.isnan()
        for column, own in enumerate(known.T):
            events[1 + column].append(
                _Task(logits[own, 0, column], labels[own, column], viewer[own])
            )
    return [_Task(*map(torch.cat, zip(*parts, strict=True))) for parts in events]
