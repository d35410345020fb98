"""The two towers: the dot product of a viewer's and a video's vector scores the next watch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor, nn

from vireo.server.arrays import Int64Array
from vireo.server.features.context import sizes
from vireo.server.features.model_inputs import GAP_BUCKETS
from vireo.training.config import RetrievalConfig
from vireo.training.modules import ByteDropout, ContextEmbeddings
from vireo.training.retrieval.content import Ridge
from vireo.training.retrieval.data import HeldOut, RetrievalData

CONVOLUTION_REACH = 3
"""Number of states before each that a block's attention reads with it."""
LATER = -1e4
"""Added to attention scores of later positions: finite, so that bfloat16 yields no NaN."""
ROWS_AT_ONCE = 65_536
"""Videos computed at once; bounds memory."""
VIEWERS_AT_ONCE = 128
"""Viewers whose attention is computed at once; bounds memory."""
_SECONDS = torch.tensor(
    [0, *(int(1.5 * 2 ** (bucket - 1)) - 1 for bucket in range(1, GAP_BUCKETS))], dtype=torch.double
)
"""The middle of each bucket of gaps."""


class VideoTower(nn.Module):
    """Computes a video's vector, the sum of an id embedding and a content embedding.

    In training a video without a watch in the train part has the content embedding only.
    """

    content: Tensor
    watched: Tensor
    """Weight of each id embedding, float32[n, 1]."""
    unseen_step: Tensor
    """Added to the estimated id embedding of unwatched videos, float32[d]; see
    `vireo.training.retrieval.embeddings`."""
    ridge: Ridge | None = None
    """Estimates id embeddings once training has ended; None without content."""
    estimate: Tensor | None = None
    """What the estimates add to each id embedding, float32[n, d]; None while training."""

    def __init__(self, data: RetrievalData, config: RetrievalConfig) -> None:
        super().__init__()
        n, d = data.video_count, config.dimension
        # A batch touches few rows of a large catalogue, so gradients are sparse.
        self.id_embedding = nn.Embedding(n, d, sparse=n > config.full_softmax_limit)
        self.token_embedding = nn.Embedding(len(data.content_vocabulary) + 1, d, padding_idx=0)
        self.token_projection = nn.Linear(d, d, bias=False)
        self.id_dropout = config.id_dropout
        watched = torch.from_numpy(data.watch_counts > 0).float()
        self.register_buffer("watched", watched[:, None], persistent=False)
        self.register_buffer("content", torch.from_numpy(data.content), persistent=False)
        self.register_buffer("unseen_step", torch.zeros(d))

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return vectors of the videos in `rows` int64[m], or of all: float32[m, d]."""
        ids, watched, content = self.id_embedding.weight, self.watched, self.content
        estimate = self.estimate
        if rows is not None:
            ids, watched, content = self.id_embedding(rows), watched[rows], content[rows]
            estimate = estimate if estimate is None else estimate[rows]
        if self.training and self.id_dropout:
            watched = watched * (torch.rand_like(watched) >= self.id_dropout)
        vectors = ids * watched + self.content_vectors(content)
        return vectors if estimate is None else vectors + estimate

    def content_vectors(self, content: Tensor) -> Tensor:
        """Return the content part of the vectors of videos with these tokens, float32[m, d]."""
        bag = F.embedding_bag(content, self.token_embedding.weight, padding_idx=0, mode="mean")
        vectors: Tensor = self.token_projection(bag)
        return vectors


class Block(nn.Module):
    """A pre-norm transformer block, causal, with a learned bias per head and distance.

    Queries, keys and values are computed from each state plus a weighted sum of the few before it,
    a short convolution; Primer (So et al., 2021) has one after these projections.
    """

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__()
        d = config.dimension
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(d)
        self.convolution = nn.Parameter(torch.zeros(CONVOLUTION_REACH, d))
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        self.attended = nn.Linear(d, d)
        self.distance_bias = nn.Embedding(config.history_limit + 1, config.heads)
        self.forward_norm = nn.LayerNorm(d)
        self.expand = nn.Linear(d, 4 * d)
        self.contract = nn.Linear(4 * d, d)
        self.dropout = ByteDropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        at: Tensor | None = None,
        asked: Tensor | None = None,
        age_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the block's output.

        Args:
            x: states of all positions, float32[b, l, d].
            at: the only position to compute in each sequence, int64[b]; all by default.
            asked: added to the states that are computed, but not to those that they attend to,
                float32 of the output's shape; nothing by default.
            age_bias: added to the attention scores of each state and position,
                float32[b, heads, l, l]; nothing by default.

        Returns:
            float32[b, l, d], or float32[b, 1, d] with `at`.
        """
        normed = self.attention_norm(x)
        before = self._weighted_before(normed)
        queried = normed + before
        key, value = self.key_value(queried).chunk(2, dim=-1)
        bias, length = self._bias(), x.shape[1]
        if at is None:
            bias = bias[None, :, :length, :length]
        else:
            # One row of a constant: exported the other way round, all rows would be copied first.
            bias = bias.transpose(0, 1)[at][:, :, None, :length]
            places = at[:, None, None].expand(-1, -1, x.shape[2])
            x, before, queried = (each.gather(1, places) for each in (x, before, queried))
            if age_bias is not None:
                rows = at[:, None, None, None].expand(-1, self.heads, -1, length)
                age_bias = age_bias.gather(2, rows)
        if age_bias is not None:
            bias = bias + age_bias
        if asked is not None:
            x = x + asked
            queried = self.attention_norm(x) + before
        query = self._split(self.query(queried)) / math.sqrt(x.shape[2] // self.heads)
        scores = query @ self._split(key).transpose(2, 3)
        # The softmax stays in the products' type. F.scaled_dot_product_attention takes twice as
        # long: with a bias that learns it computes in float32.
        with torch.autocast("cpu", enabled=False):
            mixed = (scores + bias.to(scores.dtype)).softmax(-1) @ self._split(value)
        x = x + self.dropout(self.attended(mixed.transpose(1, 2).flatten(2)))
        inner = F.gelu(self.expand(self.forward_norm(x)))
        return x + cast(Tensor, self.dropout(self.contract(inner)))

    def _weighted_before(self, normed: Tensor) -> Tensor:
        """Return the weighted sum of the CONVOLUTION_REACH states before each, float32[b, l, d]."""
        length = normed.shape[1]
        padded = F.pad(normed, (0, 0, CONVOLUTION_REACH, 0))
        parts = [
            weight * padded[:, start : start + length]
            for start, weight in enumerate(self.convolution)
        ]
        return torch.stack(parts).sum(0)

    def _bias(self) -> Tensor:
        """Return the attention bias by distance, float32[heads, limit + 1, limit + 1].

        It is of the maximum length and independent of the input, so that the exported model folds
        it into a constant and slices that, which takes less time than a look-up in each call.
        """
        positions = torch.arange(self.distance_bias.num_embeddings)
        distance = positions[:, None] - positions
        bias = self.distance_bias(distance.clamp(min=0)).permute(2, 0, 1)
        return cast(Tensor, bias.masked_fill(distance < 0, LATER))

    def _split(self, x: Tensor) -> Tensor:
        b, length, d = x.shape
        return x.view(b, length, self.heads, d // self.heads).transpose(1, 2)


class ViewerTower(nn.Module):
    """A causal transformer over [profile, first watch, ..., last watch]."""

    def __init__(self, data: RetrievalData, config: RetrievalConfig) -> None:
        super().__init__()
        d = config.dimension
        self.start = nn.Parameter(torch.zeros(d))
        self.attribute_embedding = nn.Embedding(len(data.vocabulary) + 1, d, padding_idx=0)
        self.position_embedding = nn.Embedding(config.history_limit + 1, d)
        self.gap_embedding = nn.Embedding(GAP_BUCKETS, d)
        # Each bucket's difference from the one below, so that gaps longer than any in training
        # get the embedding of the longest one seen.
        self.asked_steps = nn.Embedding(GAP_BUCKETS, d)
        self.context = ContextEmbeddings(sizes(data.context), d)
        # Likewise, per head. Only the first block reads them: it takes time.
        self.age_steps = nn.Embedding(GAP_BUCKETS, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(d)
        self.dropout = ByteDropout(config.dropout)
        self.attribute_dropout = config.attribute_dropout
        self.context_dropout = config.context_dropout

    def forward(
        self,
        watched: Tensor,
        gaps: Tensor,
        attributes: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Return the state after each watch, or with `lengths` only after the last one.

        Args:
            watched: vectors of the videos watched, oldest first, float32[b, l, d].
            gaps: buckets of the time before each watch and before the request, int64[b, l + 1]:
                state i, which has read i watches, reads the gap before the next.
            attributes: ids, 0-padded, int64[b, a].
            lengths: number of watches without padding, int64[b].
            context: ids of the context of the watch or request that follows each state returned,
                int64[b, l + 1, c] or int64[b, 1, c]; a tower without context ignores it. Only these
                states read it: that of the watches before isn't known in serving.

        Returns:
            float32[b, l + 1, d], state 0 being that of a viewer without history; or, with
            `lengths`, float32[b, 1, d].
        """
        attributes = self._kept(attributes, self.attribute_dropout)
        profile = self.start + self.attribute_embedding(attributes).sum(1)
        events = watched + self.gap_embedding(gaps[:, :-1])
        x = torch.cat([profile[:, None], events], dim=1)
        x = x + F.embedding(gaps, self.asked_steps.weight.cumsum(0))
        x = self.dropout(x + self.position_embedding(torch.arange(x.shape[1])))
        asked = None
        if self.context.features and context is not None:
            asked = torch.stack(self.context(self._kept(context, self.context_dropout))).sum(0)
        steps = self.age_steps.weight.cumsum(0)
        age_bias = F.embedding(ages_of(gaps), steps).permute(0, 3, 1, 2)
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            x = block(
                x,
                at=lengths if place == last else None,
                asked=asked if place == last else None,
                age_bias=age_bias if place == 0 else None,
            )
        state: Tensor = self.norm(x)
        return state

    def request_vectors(
        self,
        watched: Tensor,
        gaps: Tensor,
        asked_gap: Tensor,
        lengths: Tensor,
        attributes: Tensor,
        context: Tensor | None = None,
    ) -> Tensor:
        """Return viewers' vectors at a request, float32[b, d].

        Args:
            watched: vectors of the videos watched, oldest first, float32[b, l, d].
            gaps: int64[b, l], padded with 0.
            asked_gap: int64[b].
            lengths: int64[b].
            attributes: int64[b, a].
            context: int64[b, c], for towers that read it.
        """
        gaps = F.pad(gaps, (0, 1)).scatter(1, lengths[:, None], asked_gap[:, None])
        asked = None if context is None else context[:, None]
        state: Tensor = self(watched, gaps, attributes, lengths, asked)
        return state[:, 0]

    def _kept(self, ids: Tensor, dropped: float) -> Tensor:
        """Return ids in training without this share of them, and of the rest of whole rows."""
        if not (self.training and dropped):
            return ids
        kept = torch.rand(ids.shape) >= dropped
        kept = kept & (torch.rand((*ids.shape[:-1], 1)) >= dropped)
        return ids * kept


def ages_of(gaps: Tensor) -> Tensor:
    """Return how long each watch was before the next watch or request, in buckets of gaps.

    Attention is biased by it, as by time in HSTU (Zhai et al., 2024). Ages are sums of gaps, each
    of which counts as the middle of its bucket.

    Args:
        gaps: as in `ViewerTower.forward`, int64[b, l + 1].

    Returns:
        int64[b, l + 1, l + 1]: for state i, the age of watch j - 1 in column j; 0 in column 0,
        the profile's. Columns after i, which attention masks, mean nothing.
    """
    asked = F.embedding(gaps, _SECONDS[:, None])[..., 0].cumsum(1)
    watched = F.pad(asked[:, :-1], (1, 0), value=math.inf)
    ages = (asked[:, :, None] - watched[:, None]).float().clamp(-0.6, 2.0 ** (GAP_BUCKETS - 2))
    # A hundredth more: runtimes round the logarithms of powers of two differently, and hardly any
    # age is near other bounds.
    return (1.01 + torch.log2(1 + ages)).long()


class TwoTower(nn.Module):
    """Both towers; the viewer tower reads the video tower's vectors."""

    def __init__(self, data: RetrievalData, config: RetrievalConfig) -> None:
        super().__init__()
        self.config = config
        self.video_count = data.video_count
        self.attribute_count = len(data.vocabulary)
        self.context = data.context
        self.video_tower = VideoTower(data, config)
        self.viewer_tower = ViewerTower(data, config)
        self.apply(_initialise)
        tower = self.viewer_tower
        for part in (tower.asked_steps, tower.age_steps, tower.context):
            for weight in part.parameters():
                # A bucket, hour or language absent from training adds nothing.
                nn.init.zeros_(weight)

    def video_vectors(self) -> Tensor:
        """Return the catalogue's vectors, by row, float32[n, d]."""
        tower = self.video_tower
        if torch.is_grad_enabled():
            return cast(Tensor, tower())
        # Intermediate results of the whole catalogue would take three times the vectors' memory.
        vectors = torch.empty_like(tower.id_embedding.weight)
        for start in range(0, self.video_count, ROWS_AT_ONCE):
            rows = torch.arange(start, min(start + ROWS_AT_ONCE, self.video_count))
            vectors[rows] = tower(rows)
        return vectors


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


def readable(vectors: Tensor) -> Tensor:
    """Prepend zeros for unknown videos, for look-ups by row + 1: float32[n + 1, d]."""
    return F.pad(vectors, (0, 0, 1, 0))


def vectors_of(
    towers: TwoTower, data: RetrievalData, asked: Sequence[HeldOut], table: Tensor | None = None
) -> Tensor:
    """Return the vectors of viewers right before their held-out watches, float32[v, d].

    `table` is as in `viewer_vectors`; it is made if None.
    """
    table = readable(towers.video_vectors()) if table is None else table
    viewers = [one.viewer for one in asked]
    return viewer_vectors(towers, table, data.inputs(viewers, towers.config.history_limit))


def viewer_vectors(towers: TwoTower, table: Tensor, inputs: Mapping[str, Int64Array]) -> Tensor:
    """Return viewers' vectors, float32[b, d].

    Args:
        towers: the trained towers.
        table: `readable(towers.video_vectors())`, shared by batches, float32[n + 1, d].
        inputs: `vireo.server.features.model_inputs.tower_inputs` of b viewers.
    """
    parts = []
    for start in range(0, max(1, len(inputs["lengths"])), VIEWERS_AT_ONCE):
        some = slice(start, start + VIEWERS_AT_ONCE)
        tensors = {name: torch.from_numpy(array[some]) for name, array in inputs.items()}
        watched = F.embedding(tensors.pop("history"), table)
        parts.append(towers.viewer_tower.request_vectors(watched, **tensors))
    return torch.cat(parts)
