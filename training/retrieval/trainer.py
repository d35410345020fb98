"""The retrieval model's training step, its optimiser, and all the state that it changes.

Updates of large embeddings are sparse: untouched rows stay unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vireo.training.config import RetrievalConfig
from vireo.training.metrics import means
from vireo.training.modules import CheckpointError, bfloat16_is_fast
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.embeddings import first_vectors
from vireo.training.retrieval.loss import SampledSoftmax, full_softmax_loss
from vireo.training.retrieval.model import ROWS_AT_ONCE, TwoTower
from vireo.training.retrieval.validation import validation_ranks
from vireo.training.retrieval.windows import WindowBatch, epoch_batches

PROGRESS = (
    "best_ndcg", "curve", "epoch", "batch", "step", "tokens", "loss_sum", "seconds",
    "validated", "finished",
)  # fmt: skip
"""Attributes of a trainer that a checkpoint holds."""
WARMUP_SHARE = 0.05
"""Maximum share of training before the full learning rate."""
MOMENTUM = 0.95
_STEPS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients by which a Newton-Schulz step drives every singular value to about 1."""
_ADAM_RMS = 0.2
"""Typical root mean square of AdamW's step, in units of the learning rate."""


class Muon(torch.optim.Optimizer):
    """Optimiser of two-dimensional parameters. Its state is as large as the weights."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step by the current gradients; a matrix without one is unchanged."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                momentum = state.setdefault("momentum", torch.zeros_like(matrix))
                momentum.mul_(MOMENTUM).add_(matrix.grad)
                direction = orthogonalised(matrix.grad + MOMENTUM * momentum)  # Nesterov's
                size = _ADAM_RMS * math.sqrt(max(matrix.shape))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-group["lr"] * size)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the matrix, float[m, n], with all its singular values near 1; zeros stay zeros."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_STEPS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.T if tall else x


class TowerOptimizer:
    """Muon for the matrices of the viewer tower's blocks, AdamW for everything else.

    On ml-1m, validation NDCG@10 was .129 after two epochs with Muon, and .123 after three with
    AdamW alone. The id embedding, if its gradient is sparse, is trained by SparseAdam, without
    weight decay. The state takes at most twice the weights' memory.
    """

    def __init__(self, model: TwoTower, config: RetrievalConfig) -> None:
        ids = model.video_tower.id_embedding
        self.rows = [cast(nn.Parameter, ids.weight)] if ids.sparse else []
        """Parameters with sparse gradients."""
        by_row = set(map(id, self.rows))
        self.dense = [each for each in model.parameters() if id(each) not in by_row]
        """Parameters with dense gradients."""
        self._clip = config.clip
        rate, decay, betas = config.learning_rate, config.weight_decay, (0.9, 0.98)
        blocks = list(model.viewer_tower.blocks.modules())
        hidden = [layer.weight for layer in blocks if isinstance(layer, nn.Linear)]
        by_muon = {id(matrix) for matrix in hidden}
        others = [parameter for parameter in self.dense if id(parameter) not in by_muon]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=betas, fused=True),
            Muon(cast(list[nn.Parameter], hidden), lr=rate, weight_decay=decay),
        ]
        if self.rows:
            self._optimizers.append(torch.optim.SparseAdam(self.rows, lr=rate, betas=betas))

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def clip(self) -> None:
        """Clip the joint norm of all gradients to the configured maximum."""
        sparse = []
        for parameter in self.rows:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.coalesce()
                sparse.append(parameter.grad.values())
        dense = [parameter.grad for parameter in self.dense if parameter.grad is not None]
        norm = get_total_norm([*dense, *sparse])
        clip_grads_with_norm_(self.dense, self._clip, norm)
        for values in sparse:
            values.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))

    def touched(self) -> list[Tensor]:
        """Return, for each of `rows`, the rows with a gradient, int64[t]; call after `clip`."""
        none = torch.empty(0, dtype=torch.int64)
        return [
            none if parameter.grad is None else parameter.grad.indices()[0]
            for parameter in self.rows
        ]

    def step(self, learning_rate: float) -> None:
        """Take one step by the current gradients."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state that `load_state_dict` restores."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, own in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(own)


class MovingAverage:
    """An exponential moving average of a model's weights.

    Rows of a large embedding are updated lazily, when they change and when the average is read:
    while a row stays as it is, k steps amount to one update by decay^k. The average equals, up to
    rounding, one that updates every row at every step.
    """

    def __init__(self, model: TwoTower, rows: Sequence[nn.Parameter]) -> None:
        """Start from the model's weights; `rows` are its parameters with sparse gradients."""
        # Buffers describe the catalogue and are constant, so both models share them.
        shared = {id(buffer): buffer for buffer in model.buffers()}
        self.model = deepcopy(model, shared).requires_grad_(False)
        """The averaged weights; lazily updated rows are current after `settle`."""
        self._pairs: list[tuple[Tensor, nn.Parameter]] = []
        self._rows: list[tuple[Tensor, nn.Parameter]] = []
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            by_row = any(weight is parameter for parameter in rows)
            (self._rows if by_row else self._pairs).append((average, weight))
        # Logarithms of the decay accumulated over all steps, and of the part applied to each row.
        self._decayed = 0.0
        self._had = [torch.zeros(len(weight), dtype=torch.float64) for _, weight in self._rows]

    def before_step(self, touched: Sequence[Tensor]) -> None:
        """Update the rows that the coming step will change, int64[t] for each parameter."""
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def after_step(self, touched: Sequence[Tensor], decay: float) -> None:
        """Move the average towards the weights."""
        for average, weight in self._pairs:
            average.lerp_(weight.detach(), 1 - decay)
        self._decayed += math.log(decay)
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def settle(self) -> None:
        """Update every row, so that `model` is the average."""
        for number, (_, weight) in enumerate(self._rows):
            for start in range(0, len(weight), ROWS_AT_ONCE):
                self._settle(number, torch.arange(start, min(start + ROWS_AT_ONCE, len(weight))))

    def _settle(self, number: int, rows: Tensor) -> None:
        (average, weight), had = self._rows[number], self._had[number]
        left = torch.exp(self._decayed - had[rows]).float()[:, None]
        now = weight.detach()[rows]
        average[rows] = now + left * (average[rows] - now)
        had[rows] = self._decayed

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return {"model": self.model.state_dict(), "decayed": self._decayed, "had": self._had}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self._decayed = state["decayed"]
        for had, own in zip(self._had, state["had"], strict=True):
            had.copy_(own)


class RetrievalTrainer:
    """Towers, their moving average, the optimiser, and the progress of training.

    Random numbers are seeded by (seed, epoch) or (seed, step), so that checkpoints need no
    generator state, and a resumed run equals an uninterrupted one.
    """

    def __init__(
        self,
        data: RetrievalData,
        config: RetrievalConfig,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Initialise the weights, or continue from `start`, those of a finished training.

        Raises:
            CheckpointError: `start` is of towers that are built otherwise.
        """
        torch.manual_seed(config.seed)
        self.config = config
        self.model = TwoTower(data, config)
        if start is not None:
            if start.keys() != self.model.state_dict().keys():
                raise CheckpointError(
                    "the towers to start from are of another version of Vireo; "
                    "train again with --fresh"
                )
            self.model.load_state_dict(start)
        else:
            _start_near_each_other(self.model, data, config)
        self._optimizer = TowerOptimizer(self.model, config)
        self.average = MovingAverage(self.model, self._optimizer.rows)
        self.best: Mapping[str, Tensor] = self.average.model.state_dict()
        """The best average so far; the latest one until the first validation."""
        self.best_ndcg = -1.0
        self.curve: list[dict[str, float]] = []
        self.epochs = config.planned_epochs(data.watch_count)
        self.epoch = 0
        self.batch = 0
        """Batches done in this epoch."""
        self.tokens = 0
        """Watches trained on in this epoch."""
        self.step = 0
        self.loss_sum = 0.0
        """Sum of the losses of this epoch's batches."""
        self.seconds = 0.0
        """Training time, validation included."""
        self.validated = 0
        """Validations done."""
        self.finished = False
        self._data = data
        self._batches: Iterator[WindowBatch] | None = None
        self._bfloat16 = bfloat16_is_fast()
        self._loss: Callable[..., Tensor] = full_softmax_loss
        if data.video_count > config.full_softmax_limit:
            counts = torch.from_numpy(data.watch_counts)
            self._loss = SampledSoftmax(counts, config.negatives, config.negative_power)
        published = data.published
        self._published = None if published is None else torch.from_numpy(published)

    def state(self) -> dict[str, Any]:
        """Return the state that `restore` restores."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def state_names(self) -> list[str]:
        """Return the names in a state; a checkpoint with other names can't be restored."""
        return [*PROGRESS, *self.model.state_dict()]

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        for name in PROGRESS:
            setattr(self, name, state[name])
        self._batches = None

    @property
    def share_done(self) -> float:
        """Share of training that is done, by epochs or by time, whichever is larger."""
        share = (self.epoch + self.tokens / self._data.watch_count) / self.epochs
        if self.config.max_minutes is not None:
            share = max(share, self.seconds / (60 * self.config.max_minutes))
        return min(share, 1.0)

    @property
    def at_epoch_end(self) -> bool:
        """Whether this epoch has trained on every watch."""
        return self.tokens == self._data.watch_count

    @property
    def loss(self) -> float:
        """Mean loss of this epoch's batches; undefined before its first step."""
        return self.loss_sum / self.batch

    def _next_batch(self) -> WindowBatch:
        if self._batches is None:
            batches = epoch_batches(self._data, self.config, self.epoch)
            self._batches = islice(batches, self.batch, None)
        return next(self._batches)

    def _learning_rate(self) -> float:
        """Return the scheduled learning rate: linear warm-up, constant, then cosine to zero."""
        config = self.config
        warmed = max((self.step + 1) / max(1, config.warmup_steps), self.share_done / WARMUP_SHARE)
        warm = min(1.0, warmed)
        falling = max(0.0, self.share_done - config.constant_share) / (1 - config.constant_share)
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * falling))

    def train_step(self) -> None:
        """Take one step on the epoch's next batch of windows."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        self.model.train()
        batch = self._next_batch()
        self._optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            loss = self._loss(self.model, batch, self._published)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.clip()
        touched = self._optimizer.touched()
        self.average.before_step(touched)
        self._optimizer.step(self._learning_rate())
        # Warmed up, the average forgets where training started, and doesn't lag in a short one.
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
        self.average.after_step(touched, decay)
        self.loss_sum += float(loss.detach())
        self.step += 1
        self.batch += 1
        self.tokens += batch.tokens

    def end_epoch(self) -> dict[str, float]:
        """End the epoch, validate if due, and return its point of the learning curve.

        Without a validation part the last average counts as the best.
        """
        point = {
            "epoch": self.epoch + 1.0,
            "loss": self.loss,
            "tokens": float(self.tokens),
        }
        self.finished = self.share_done == 1
        validations = int(self.share_done * self.config.validations + 1e-9)
        due = self.finished or validations > self.validated
        if due:
            self.validated = validations
            self.average.settle()
            if self._data.validation:
                point |= means(validation_ranks(self.average.model, self._data))
            if point.get("ndcg_10", math.inf) > self.best_ndcg:
                self.best_ndcg = point.get("ndcg_10", self.best_ndcg)
                average = self.average.model.state_dict()
                # After the last step the average doesn't change any more and needs no copy.
                self.best = average if self.finished else deepcopy(average)
        self.curve.append(point)
        self.epoch, self.batch, self.tokens = self.epoch + 1, 0, 0
        self.loss_sum = 0.0
        self._batches = None
        return point

    def best_model(self) -> TwoTower:
        """Return the moving average that was best in validation, in eval mode."""
        self.average.model.load_state_dict(self.best)
        return self.average.model.eval()


def _start_near_each_other(model: TwoTower, data: RetrievalData, config: RetrievalConfig) -> None:
    vectors = first_vectors(data, config.dimension, config.seed)
    if vectors is not None:
        with torch.no_grad():
            model.video_tower.id_embedding.weight.copy_(torch.from_numpy(vectors))
