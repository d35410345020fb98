"""Every choice of the ranking model and its training."""

from __future__ import annotations

from dataclasses import dataclass

from server.releases.manifest import CANDIDATES


@dataclass(frozen=True)
class RankingConfig:
    """The `[ranking]` section of a profile."""

    seed: int = 1
    candidates: int = CANDIDATES
    """How many candidates are drawn for each label event. The manifest repeats it, and gateways,
    gate and evaluation ask for as many."""
    viewers: int = 30_000
    """Viewers whose watches are label events, at most; of more, so many are drawn. Their lists
    take 120 bytes for each of `candidates` and viewer, 1.1 GB with these."""
    holdout_share: float = 0.15
    """Share of viewers kept from fitting, to choose the model by."""
    hidden: int = 32
    """Width of the hidden layers."""
    attribute_size: int = 8
    """Dimensions of the embedding of a viewer attribute."""
    dropout: float = 0.2
    epochs: int = 24
    """Passes over the lists, at most."""
    patience: int = 5
    """Stop after so many passes without a better held-out loss."""
    batch_lists: int = 16
    """Lists (label events) per step."""
    batch_likes: int = 64
    """Like labels per step: of many more, likes are learned by heart while watches still get
    better."""
    learning_rate: float = 1e-2
    """Of the linear part by itself."""
    network_learning_rate: float = 1e-3
    """Of all of the model, which goes on from the linear part."""
    weight_decay: float = 1e-2
    like_loss_weight: float = 1.0
    watch_weight: float = 1.0
    """Exponent of the watch probability in the score that orders a slate."""
    like_weight: float = 0.0
    """Exponent of the like probability in it."""
    diversity: float | None = None
    """Strength of the diversity among the best of a slate, 0 for none; None takes the largest
    that costs less than half a hundredth of NDCG@10 and HR@10 on validation."""
