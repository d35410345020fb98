"""Everything that decides how the retrieval model is shaped and trained."""

from __future__ import annotations

from dataclasses import dataclass

from server.features.activity import HISTORY_LIMIT


@dataclass(frozen=True)
class RetrievalConfig:
    """Shape and recipe of the two towers."""

    seed: int = 0

    members: int = 1
    """Pairs of towers whose scores are summed, each trained from a seed of its own."""
    dimension: int = 64
    """Of each member's viewer and video vectors, and of its viewer tower's width."""
    heads: int = 2
    blocks: int = 2
    history_limit: int = HISTORY_LIMIT
    """How many of the last watched videos the viewer tower reads."""
    asked_gap: bool = True
    """Whether the viewer tower reads how long ago the last watch was when a slate is asked for."""

    dropout: float = 0.4
    """On the viewer tower's input and residual branches."""
    id_dropout: float = 0.1
    """Share of videos, drawn at each step, that must do with their content."""
    attribute_dropout: float = 0.2
    """Chance that an attribute, and again that a whole profile, is withheld."""

    epochs: int = 60
    max_minutes: float | None = None
    """Wall-clock limit; the learning rate then falls to zero by it instead of by `epochs`."""
    batch_tokens: int = 2048
    """Positions in a batch, padding included."""
    shuffle_watches: int = 4_000_000
    """Watches that are shuffled among each other, some 50 bytes of memory each; of a larger
    data set, so many at a time."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    constant_share: float = 0.25
    """Share of training at the full rate, before the cosine to zero."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.99
    """Of the moving average of the weights, which is what validation sees and training gives."""

    full_softmax_limit: int = 50_000
    """Larger catalogues train on a sampled softmax."""
    negatives: int = 4096
    """Sampled videos that all positions of a batch share. More is better: on ml-100k with its
    1,682 videos, validation's NDCG@10 was .115 with 512 and .130 with 1,200 (drawn by a power of
    .5, one seed each), where the full softmax had .131 after as many epochs."""
    negative_power: float = 1.0
    """Of its watches that a video is drawn by: 0 is uniform, 1 by popularity. There, with 512,
    powers of .5, .75 and 1 gave an NDCG@10 of .115, .115 and .118 and a Recall@100 of .689,
    .702 and .706."""

    ease_limit: int = 20_000
    """Larger catalogues go without EASE; 0 for none at all. Its fit takes 4 bytes of memory for
    each pair of videos, 1.6 GB with so many, and the cube of their number in time."""

    validate_every: int = 5
    """Epochs from one validation (and checkpoint) to the next."""

    threads: int | None = None
    """Of torch; None takes all cores, which small models don't gain from."""
