"""Trains the ranker: first its linear part, then all of it; keeps of each task what helps.

A loss can fall while the order among the best gets worse: of a list of hundreds, the loss is mostly
about those far down. So more of the model orders watches only where held-out viewers' NDCG@10 is no
less: the two-tower order alone is one of the choices, and the linear part another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from torch import Tensor

from training.heartbeat import Bars
from training.ranking.batches import Batches, Places, chunks
from training.ranking.calibration import TASKS, calibrate
from training.ranking.checkpoint import Checkpoints
from training.ranking.config import RankingConfig
from training.ranking.holdout import HeldOut, measure
from training.ranking.loss import level_loss, like_loss, listwise_loss
from training.ranking.model import LikePart, Ranker, WatchPart
from training.ranking.training_set import RankingSet
from training.threads import torch_threads

CURVE = "ranking_curve.jsonl"
CALIBRATION = "ranking_calibration.json"
_FIT_INPUT_LISTS = 512
"""How many lists the standardisation constants are taken from."""


@dataclass(frozen=True)
class TrainedRanker:
    """The chosen model, and how each choice did on held-out viewers."""

    model: Ranker
    held_out: dict[str, HeldOut]
    """By part: "retrieval", "linear", "full"; and "chosen"."""
    calibration_error: dict[str, float]
    """Of each of TASKS, over the label events, of viewers that calibration wasn't fitted on."""

    def described(self) -> str:
        """What was chosen and why, in one line."""
        before, now = self.held_out["retrieval"], self.held_out["chosen"]
        return (
            f"chosen on held-out viewers: {self.model.watch_part} for watches, NDCG@10 "
            f"{before.ndcg_10:.3f} -> {now.ndcg_10:.3f}; {self.model.like_part} for likes; "
            f"calibration error out of fold {self.calibration_error['watch']:.4f} for watches, "
            f"{self.calibration_error['like']:.4f} for likes"
        )


class RankingTrainer:
    """The state of one training: model, optimiser and the best of each phase.

    What is random is drawn from (seed, phase, epoch), so that a resumed training equals an
    uninterrupted one.
    """

    def __init__(
        self,
        data: RankingSet,
        vectors: npt.NDArray[np.float32],
        attribute_count: int,
        config: RankingConfig,
        checkpoints: Checkpoints,
    ) -> None:
        torch.manual_seed(config.seed)
        self.data, self.config, self.checkpoints = data, config, checkpoints
        self.batches = Batches(vectors)
        self.model = Ranker(config, self.batches.vector_size, attribute_count)
        held = data.watches.viewers.held_out
        self.fit_lists, self.held_lists = np.flatnonzero(~held), np.flatnonzero(held)
        held = data.likes.viewers.held_out
        self.fit_likes, self.held_likes = np.flatnonzero(~held), np.flatnonzero(held)
        if len(self.fit_lists):
            sample = self.fit_lists[:_FIT_INPUT_LISTS]
            self.model.fit_inputs(*self.batches.watch_inputs(data.watches, sample))
        self.curve: list[dict[str, float | str]] = []

    def measure(self) -> HeldOut:
        """How the model, as it is, does on held-out viewers."""
        lists = chunks(self.held_lists, 64)
        likes = chunks(self.held_likes, 1024)
        return measure(self.model, self.batches, self.data, lists, likes)

    def phase(
        self, part: WatchPart, floor: float, progress: Progress
    ) -> tuple[dict[str, Tensor], HeldOut]:
        """Trains one part; returns the weights after its best epoch, and their measures.

        That is the one of least held-out loss among those whose NDCG@10 isn't below `floor`;
        where all are below it, among all of them, for the sake of the likes.
        """
        like_part: LikePart = "full" if part == "full" else "linear"
        self.model.watch_part, self.model.like_part = part, like_part
        config = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.network_learning_rate if part == "full" else config.learning_rate,
            weight_decay=config.weight_decay,
        )
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.config.epochs)
        best: HeldOut | None = None
        best_state, stale, epoch = self.weights(), 0, 0
        saved = self.checkpoints.read(part)
        if saved:
            self.model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            falling.load_state_dict(saved["falling"])
            best, best_state = HeldOut(**saved["best"]), saved["best_state"]
            stale, epoch, self.curve = saved["stale"], saved["epoch"], saved["curve"]
        task = progress.add_task(f"ranker, {part} part", total=self.config.epochs, completed=epoch)
        while epoch < self.config.epochs and stale < self.config.patience:
            watch, like = self._epoch(optimizer, part, epoch)
            falling.step()
            now = self.measure()
            epoch += 1
            stale += 1
            if best is None or now.better_than(best, floor):
                best, best_state, stale = now, self.weights(), 0
            self.curve.append(
                {"part": part, "epoch": epoch, "watch_loss": watch, "like_loss": like}
                | {f"held_out_{name}": value for name, value in vars(now).items()}
            )
            self.checkpoints.write(
                part,
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
                description=f"ranker, {part} part: watch {watch:.3f} (held out "
                f"{now.watch_loss:.3f}), like {like:.3f} (held out {now.like_loss:.3f})",
            )
        progress.update(task, completed=self.config.epochs)
        return best_state, best or self.measure()

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's weights and constants as they are."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def _epoch(
        self, optimizer: torch.optim.Optimizer, part: WatchPart, epoch: int
    ) -> tuple[float, float]:
        """One pass over the lists, with as many batches of likes; returns the mean losses."""
        seed = [self.config.seed, len(part), epoch]
        random = np.random.default_rng(seed)
        torch.manual_seed(int(random.integers(2**31)))
        like_batches = self._endless_likes(random)
        self.model.train()
        losses = []
        for places in chunks(random.permutation(self.fit_lists), self.config.batch_lists):
            inputs, real = self.batches.watch_inputs(self.data.watches, places)
            label = torch.from_numpy(self.data.watches.label[places])
            order, level, _ = self.model.logits(inputs)
            watch = listwise_loss(order, real, label)
            # The level learns how likely a watch is at all, and leaves the order alone.
            total = watch + level_loss(order.detach() + level, real, label)
            some = next(like_batches)
            _, _, logit = self.model.logits(self.batches.like_inputs(self.data.likes, some))
            liked = torch.from_numpy(self.data.likes.liked[some].astype(np.float32))
            like = like_loss(logit[:, 0], liked)
            total = total + self.config.like_loss_weight * like
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append((watch.item(), like.item()))
        watch_mean, like_mean = np.mean(losses, axis=0) if losses else (0.0, 0.0)
        return float(watch_mean), float(like_mean)

    def _endless_likes(self, random: np.random.Generator) -> Iterator[Places]:
        while True:
            yield from chunks(random.permutation(self.fit_likes), self.config.batch_likes)


@torch_threads(1)
def train_ranker(
    data: RankingSet,
    vectors: npt.NDArray[np.float32],
    attribute_count: int,
    config: RankingConfig,
    checkpoints: Path,
    fingerprint: str,
    console: Console | None = None,
) -> TrainedRanker:
    """Train, choose and calibrate the ranker; arguments as in `fit_ranker`.

    Writes CALIBRATION into `checkpoints`: what `calibrate` measures.
    """
    trainer, held_out = fit_ranker(
        data, vectors, attribute_count, config, checkpoints, fingerprint, console
    )
    model = trainer.model
    measures = calibrate(model, trainer.batches.as_served(data.served_features), data)
    (checkpoints / CALIBRATION).write_text(json.dumps(measures))
    held_out["chosen"] = trainer.measure()
    errors = {task: measures[f"{task}_ece"] for task in TASKS}
    return TrainedRanker(model.eval(), held_out, errors)


@torch_threads(1)
def fit_ranker(
    data: RankingSet,
    vectors: npt.NDArray[np.float32],
    attribute_count: int,
    config: RankingConfig,
    checkpoints: Path,
    fingerprint: str,
    console: Console | None = None,
) -> tuple[RankingTrainer, dict[str, HeldOut]]:
    """Trains the parts and chooses of them, without calibration, which changes no order.

    Args:
        data: the training set.
        vectors: video vectors, float32[n, d].
        attribute_count: size of the attribute vocabulary.
        config: sizes and recipe.
        checkpoints: folder of the checkpoints, which gets CURVE too; training goes on where it was
            interrupted.
        fingerprint: of all that goes in; checkpoints of another one are ignored.
        console: where progress is shown.

    Returns:
        The trainer, whose model has what was chosen; and each part's measures.
    """
    trainer = RankingTrainer(
        data, vectors, attribute_count, config, Checkpoints(checkpoints, fingerprint)
    )
    model = trainer.model
    model.watch_part, model.like_part = "retrieval", "linear"
    held_out = {"retrieval": trainer.measure()}
    states: dict[str, dict[str, Tensor]] = {"retrieval": trainer.weights()}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console or Console(stderr=True)) as progress:
        for part in ("linear", "full"):
            floor = max(held.ndcg_10 for held in held_out.values())
            states[part], held_out[part] = trainer.phase(part, floor, progress)
            model.load_state_dict(states[part])
    choose(model, states, held_out)
    lines = [json.dumps(line) for line in trainer.curve]
    (checkpoints / CURVE).write_text("".join(f"{line}\n" for line in lines))
    return trainer, held_out


def choose(
    model: Ranker, states: dict[str, dict[str, Tensor]], held_out: dict[str, HeldOut]
) -> None:
    """Gives the model, of each task, the part that did best on held-out viewers.

    For watches: more of the model where its loss is less and its NDCG@10 isn't.
    """
    model.watch_part = "retrieval"
    more: tuple[WatchPart, ...] = ("linear", "full")
    for part in more:
        before, now = held_out[model.watch_part], held_out[part]
        if now.watch_loss < before.watch_loss and now.ndcg_10 >= before.ndcg_10:
            model.watch_part = part
    like_parts: tuple[LikePart, ...] = ("linear", "full")
    model.like_part = min(like_parts, key=lambda part: held_out[part].like_loss)
    state = dict(states["full"])
    for name, source in (("watch", model.watch_part), ("like", model.like_part)):
        if source != "full":
            own = {key: value for key, value in states["linear"].items() if key.startswith(name)}
            state.update(own)
    model.load_state_dict(state)
