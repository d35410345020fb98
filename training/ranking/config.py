"""Architecture and training settings of the ranking model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vireo.server.releases.manifest import CANDIDATES
from vireo.server.signals import TASKS

_WEIGHTS = {task.name: task.weight for task in TASKS}


@dataclass(frozen=True)
class RankingConfig:
    """The `[ranking]` section of a profile."""

    seed: int = 1
    candidates: int = CANDIDATES
    """Candidates retrieved for each label event. It is written to the manifest, and gateways, gate
    and evaluation request the same number."""
    viewers: int = 30_000
    """Maximum viewers whose watches are label events; of more, a sample is drawn. Their lists take
    120 bytes for each candidate of each viewer, 1.1 GB with these defaults."""
    holdout_share: float = 0.15
    """Share of viewers held out from fitting, for model selection."""
    hidden: int = 32
    """Width of the hidden layers."""
    attribute_size: int = 8
    """Size of the embedding of a viewer attribute, and of a feature of the context."""
    context_dropout: float = 0.2
    """Probability that the context of a list is dropped in training."""
    dropout: float = 0.2
    epochs: int = 24
    """Maximum passes over the lists."""
    patience: int = 5
    """Early stopping: passes without a better held-out loss."""
    batch_lists: int = 16
    """Lists (label events) per step."""
    batch_likes: int = 64
    """Outcome labels per step; with many more, likes overfit while watches still improve."""
    learning_rate: float = 1e-2
    """Learning rate of the linear part by itself."""
    network_learning_rate: float = 1e-3
    """Learning rate of the whole model, which starts from the trained linear part."""
    weight_decay: float = 1e-2
    like_loss_weight: float = 1.0
    finish_loss_weight: float = 1.0
    hide_loss_weight: float = 1.0
    watch_weight: float = _WEIGHTS["watch"]
    """Exponent of the watch probability in the score that orders a slate."""
    like_weight: float = _WEIGHTS["like"]
    """Exponent of the like probability in that score."""
    finish_weight: float = _WEIGHTS["finish"]
    """Exponent of the probability of a watch to the end in that score."""
    hide_weight: float = _WEIGHTS["hide"]
    """Exponent of 1 minus the probability of a hide in that score."""
    diversity: float | None = None
    """Strength of the diversification of a slate, 0 for none; None selects the maximum that costs
    less than 0.5 % of NDCG@10 and HR@10 on validation."""

    @property
    def task_weights(self) -> dict[str, float]:
        """Exponent of each task's probability, by the task's name."""
        return {name: getattr(self, f"{name}_weight") for name in _WEIGHTS}

    def outcome_loss_weights(self, tasks: Sequence[str]) -> list[float]:
        """Return the weight of the loss of each of these tasks."""
        return [getattr(self, f"{name}_loss_weight") for name in tasks]
