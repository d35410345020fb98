"""Architecture and training settings of both models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ConfigDict

from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.releases.manifest import CANDIDATES
from vireo.server.signals import TASKS

_WEIGHTS = {task.name: task.weight for task in TASKS}


@dataclass(frozen=True)
class RetrievalConfig:
    """Architecture and hyperparameters of the two towers."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: int = 0

    dimension: int = 64
    """Size of viewers' and videos' vectors, and width of the viewer tower."""
    heads: int = 2
    blocks: int = 2
    history_limit: int = HISTORY_LIMIT
    """Number of last watched videos that the viewer tower reads."""
    context: bool = True
    """Whether both models read the context of requests, as far as the data has that of watches."""

    dropout: float = 0.4
    """Dropout on the viewer tower's input and residual branches."""
    id_dropout: float = 0.1
    """Probability, at each step, that a video is represented by its content alone."""
    attribute_dropout: float = 0.2
    """Probability that an attribute is dropped, and independently that a whole profile is."""
    context_dropout: float = 0.2
    """Probability that a feature of a watch's context is dropped, and independently that all of it
    is: so that requests without context do no worse than those to a model that reads none."""

    epochs: int = 20
    """Minimum passes over the watches; see `planned_epochs`."""
    min_steps: int = 1_500
    """Minimum optimizer steps, of as many epochs as they take: in fewer, the learning rate has
    hardly risen before it falls."""
    max_minutes: float | None = None
    """Wall-clock limit; the learning rate schedule then follows it instead of `epochs`."""
    batch_tokens: int = 2048
    """Maximum positions in a batch, padding included."""
    shuffle_watches: int = 4_000_000
    """Size of the shuffle buffer in watches, some 50 bytes of memory each; a larger data set is
    shuffled part by part."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    """Steps until the full rate, but at most 5% of training."""
    constant_share: float = 0.25
    """Share of training at the full rate, before the cosine decay to zero."""
    clip: float = 1.0
    """Maximum norm of the gradient."""
    ema_decay: float = 0.99
    """Maximum decay of the weights' moving average, which is validated and is the result of
    training; at first the average spans a tenth of the steps so far."""

    estimate_weight: float = 6.0
    """Watches of a video at which its id embedding and the estimate from its content count alike,
    once training has ended; 0 turns the estimate off for watched videos. On ml-100k (32 dimensions,
    one seed) weights of 0, 6, 12 and 24 gave a Recall@100 of .682, .680, .672 and .659, with
    equal NDCG@10; in a synthetic world of three watches a video .580, .628, .626 and .623, with an
    NDCG@10 of .154, .141, .136 and .128."""

    full_softmax_limit: int = 50_000
    """Maximum videos for a full softmax; larger catalogues train on a sampled one."""
    negatives: int = 4096
    """Sampled videos that all positions of a batch share. More is better: on ml-100k with its
    1,682 videos, validation NDCG@10 was .115 with 512 and .130 with 1,200 (power .5, one seed
    each); the full softmax reached .131 after the same number of epochs."""
    negative_power: float = 1.0
    """Negatives are drawn by their watch count to this power: 0 is uniform, 1 by popularity. On
    ml-100k with 512 negatives, powers of .5, .75 and 1 gave an NDCG@10 of .115, .115 and .118 and
    a Recall@100 of .689, .702 and .706."""

    ease_limit: int = 20_000
    """Maximum videos for EASE of all pairs, which takes 4 bytes of memory for each pair, 1.6 GB at
    this limit, and time cubic in their number; beyond, each video is regressed on some others."""

    validations: int = 10
    """Validations (and checkpoints), evenly spaced and each at the end of an epoch."""

    threads: int | None = None
    """Torch's threads; None uses all cores, which doesn't speed up small models. Two cores train
    profile quality 1.6 times as fast as one."""

    def planned_epochs(self, watches: int) -> int:
        """Return the number of passes over this many watches."""
        steps = max(1.0, watches / self.batch_tokens)
        return max(self.epochs, math.ceil(self.min_steps / steps))


@dataclass(frozen=True)
class RankingConfig:
    """The `[ranking]` section of a profile."""

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    slates: int = 30_000
    """Maximum slates of the log that it is trained on, if it is; of more, a sample is drawn."""
    batch_slates: int = 32
    """Slates per step."""
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
