"""The ranking model: probabilities that the viewer watches each candidate, and of what follows.

It is the sum of a linear part that is initialised to the retrieval order, and a small network over
viewer, candidate and the history as attended by that candidate. Tasks of outcomes, such as a
like, don't read retrieval features, since their labels are watches that retrieval was trained on.

Slates of the log are fitted with a further term for the surface and position of each video, which
is additive and shallow (PAL, Guo et al. 2019; Zhao et al. 2019, section 4.2): it takes up what
viewers play because of where it is. Nothing that is served has that term.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vireo.server.features.model_inputs import (
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.releases.manifest import FeatureSchema
from vireo.server.signals import UNWANTED
from vireo.training.config import RankingConfig
from vireo.training.modules import ByteDropout, ContextEmbeddings

WatchPart = Literal["retrieval", "linear", "full"]
"""Part of the model that orders watches: the two-tower score alone, the linear part, or all."""
OutcomePart = Literal["linear", "full"]
"""Part of the model that predicts outcomes: the two like rates alone, or all."""

SURFACES = ("home", "up_next")
POSITIONS = 21
"""Positions of a slate that are told apart: the first 20, and all after them as one."""

SIMILARITIES = ("last", "recent", "closest")
"""Cosine similarity of a candidate to the last, the recent, and the closest watched videos."""
RECENT_DECAY = 0.8
"""Weight of each step back in the "recent" similarity."""
_TWO_TOWER = RETRIEVAL_FEATURES.index("two_tower")
_CO_WATCH = RETRIEVAL_FEATURES.index("co_watch")
_VIDEO_LIKE_RATE = VIDEO_FEATURES.index("like_rate")
_VIEWER_LIKE_RATE = VIEWER_FEATURES.index("like_rate")
MASKED = -1e4
"""Added to attention scores of padding in a history."""
MIN_RATE = 1e-3
"""Like rates are clamped to MIN_RATE and 1 - MIN_RATE."""


class Standardise(nn.Module):
    """(x - mean) / scale with constants of the training set, inside the graph."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, values: Tensor) -> None:
        """Fit to the mean and deviation of `values` [m, width]; a constant column keeps scale 1."""
        self.mean.copy_(values.mean(0))
        deviation = values.std(0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation)))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise the last dimension."""
        return (values - self.mean) / self.scale


class Ranker(nn.Module):
    """Scores n candidates of each of b viewers; see `forward`."""

    calibration: Tensor
    co_watch_unit: Tensor

    def __init__(self, config: RankingConfig, schema: FeatureSchema, attribute_count: int) -> None:
        """Initialise to the retrieval order, for a release's features and size of vocabulary."""
        super().__init__()
        hidden, vector_size = config.hidden, schema.vector_size
        self.schema = schema
        # Signals of a candidate: those of retrieval, then its own, which tasks of outcomes also
        # read.
        own = len(VIDEO_FEATURES) + len(schema.match_features) + len(SIMILARITIES)
        signals = len(RETRIEVAL_FEATURES) + own
        self.watch_part: WatchPart = "full"
        self.outcome_part: OutcomePart = "full"
        self.signals = Standardise(signals)
        self.viewer = Standardise(len(VIEWER_FEATURES))
        # Mean of non-zero co-watch scores: the signal is log(1 + score / unit).
        self.register_buffer("co_watch_unit", torch.ones(()))
        # Scale and offset of each task's logit, fitted last.
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(schema.tasks)))

        self.watch_linear = nn.Linear(signals, 1, bias=False)
        self.watch_viewer = nn.Linear(len(VIEWER_FEATURES), 1)
        # Added to the order in the logit of a play that a slate led to, and nowhere else.
        self.watch_surface = nn.Parameter(torch.zeros(len(SURFACES)))
        self.watch_position = nn.Parameter(torch.zeros(len(SURFACES), POSITIONS))
        outcomes = len(schema.tasks) - 1
        self.outcome_linear = nn.Linear(2, outcomes)

        self.attribute = nn.Embedding(attribute_count + 1, config.attribute_size, padding_idx=0)
        self.query = nn.Linear(vector_size, hidden)
        self.key = nn.Linear(vector_size, hidden)
        self.value = nn.Linear(vector_size, hidden, bias=False)
        context_size = config.attribute_size * len(schema.context_features)
        viewer_size = len(VIEWER_FEATURES) + config.attribute_size + vector_size + context_size
        candidate_size = vector_size + own
        self.viewer_layer = nn.Linear(viewer_size, hidden)
        self.candidate_layer = nn.Linear(candidate_size, hidden, bias=False)
        self.attended_layer = nn.Linear(2 * hidden, hidden, bias=False)
        self.signal_layer = nn.Linear(signals, hidden, bias=False)
        self.dropout = ByteDropout(config.dropout)
        self.watch_hidden = nn.Linear(hidden, hidden)
        self.outcome_hidden = nn.Linear(hidden, hidden)
        self.watch_head = nn.Linear(hidden, 1, bias=False)
        self.outcome_head = nn.Linear(hidden, outcomes, bias=False)
        self.context = ContextEmbeddings(schema.context_features.values(), config.attribute_size)
        self.context_dropout = config.context_dropout if schema.context_features else 0.0
        self._start_as_retrieval()

    def _start_as_retrieval(self) -> None:
        """Initialise watches to the two-tower order, and wanted outcomes to the two like rates."""
        for layer in (self.watch_linear, self.watch_viewer, self.watch_head, self.outcome_head):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.watch_viewer.bias)
        nn.init.ones_(self.outcome_linear.weight)
        nn.init.zeros_(self.outcome_linear.bias)
        nn.init.normal_(self.attribute.weight, std=0.1)
        with torch.no_grad():
            self.watch_linear.weight[0, _TWO_TOWER] = 1.0
            self.attribute.weight[0] = 0.0
            for place, name in enumerate(self.schema.tasks[1:]):
                if name in UNWANTED:
                    self.outcome_linear.weight[place] = 0.0

    def fit_inputs(self, inputs: dict[str, Tensor], real: Tensor) -> None:
        """Fit the standardisation constants to a batch; `real` bool[b, n] is False on padding.

        The two-tower weight is set so that the linear part equals the two-tower score.
        """
        with torch.no_grad():
            co_watch = inputs["retrieval_features"][..., _CO_WATCH][real]
            if (co_watch > 0).any():
                self.co_watch_unit.copy_(co_watch[co_watch > 0].mean())
            signals, _ = self._signals(inputs)
            self.signals.fit(signals[real])
            self.viewer.fit(inputs["viewer_features"])
            self.watch_linear.weight[0, _TWO_TOWER] = self.signals.scale[_TWO_TOWER]

    def _signals(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return raw signals of each candidate [b, n, SIGNALS] and the history's weights [b, h]."""
        retrieval = inputs["retrieval_features"]
        co_watch = torch.log1p(retrieval[..., _CO_WATCH : _CO_WATCH + 1] / self.co_watch_unit)
        retrieval = torch.cat(
            [retrieval[..., :_CO_WATCH], co_watch, retrieval[..., _CO_WATCH + 1 :]], -1
        )
        candidates = nn.functional.normalize(inputs["candidate_vectors"], dim=-1)
        history = nn.functional.normalize(inputs["history_vectors"], dim=-1)
        back = steps_back(inputs["history_lengths"], history.shape[1])
        present = (back >= 0).to(history.dtype)
        weights = torch.pow(RECENT_DECAY, back.clamp(min=0).to(history.dtype)) * present
        recent = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        last = (back == 0).to(history.dtype)
        cosines = candidates @ history.transpose(1, 2)
        closest = (cosines * present[:, None] - 2.0 * (1.0 - present[:, None])).amax(-1)
        any_watched = (inputs["history_lengths"] > 0).to(history.dtype)[:, None]
        similarities = torch.stack(
            [
                (cosines * last[:, None]).sum(-1),
                (cosines * recent[:, None]).sum(-1),
                closest * any_watched,
            ],
            -1,
        )
        own = [inputs["candidate_features"], inputs["match_features"], similarities]
        return torch.cat([retrieval, *own], -1), recent

    def _trunk(self, inputs: dict[str, Tensor], signals: Tensor, recent: Tensor) -> Tensor:
        """Return the layer that all tasks share, without retrieval features, [b, n, hidden].

        The viewer's part of the layer is computed once per viewer and added to every candidate.
        """
        history = nn.functional.normalize(inputs["history_vectors"], dim=-1)
        candidates = nn.functional.normalize(inputs["candidate_vectors"], dim=-1)
        absent = (steps_back(inputs["history_lengths"], history.shape[1]) < 0).to(history.dtype)
        query, key = self.query(candidates), self.key(history)
        affinity = query @ key.transpose(1, 2) + MASKED * absent[:, None]
        any_watched = (inputs["history_lengths"] > 0).to(history.dtype)[:, None, None]
        # Projected before the product with all candidates: whole vectors took most of the time.
        attended = (affinity.softmax(-1) @ self.value(history)) * any_watched
        known = (inputs["attributes"] > 0).to(history.dtype)
        profile = self.attribute(inputs["attributes"]).sum(1)
        profile = profile / known.sum(-1, keepdim=True).clamp(min=1.0)
        taste = (recent[:, None] @ history)[:, 0]
        context = self.context(inputs["context"]) if self.schema.context_features else []
        viewer = torch.cat([self.viewer(inputs["viewer_features"]), profile, taste, *context], -1)
        candidate = torch.cat([candidates, signals[..., len(RETRIEVAL_FEATURES) :]], -1)
        total = self.viewer_layer(self.dropout(viewer))[:, None]
        total = total + self.candidate_layer(self.dropout(candidate))
        attended = self.attended_layer(torch.cat([attended, attended * query], -1))
        shared: Tensor = total + attended
        return shared

    def _some_contexts(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs without the context of some lists, as of requests without one."""
        kept = torch.rand(len(inputs["context"]), 1) >= self.context_dropout
        match = inputs["match_features"].clone()
        match[..., len(MATCH_FEATURES) :] *= kept[..., None]
        return inputs | {"context": inputs["context"] * kept, "match_features": match}

    def logits(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits before calibration; inputs are those of `forward`, by name.

        Returns:
            The watch logit that orders a viewer's candidates, [b, n]; its level, shared by all of
            a viewer's candidates, [b, 1]; and the logits of the other tasks, [b, n, t].
        """
        if self.training and self.context_dropout:
            inputs = self._some_contexts(inputs)
        raw, recent = self._signals(inputs)
        signals = self.signals(raw)
        rates = torch.stack(
            [
                inputs["candidate_features"][..., _VIDEO_LIKE_RATE],
                inputs["viewer_features"][:, None, _VIEWER_LIKE_RATE].expand(raw.shape[:2]),
            ],
            -1,
        )
        watch = self.watch_linear(signals)
        outcome = self.outcome_linear(torch.logit(rates, eps=MIN_RATE))
        if self.watch_part == "full" or self.outcome_part == "full":
            trunk = self._trunk(inputs, signals, recent)
        if self.watch_part == "full":
            hidden = self.dropout(torch.relu(trunk + self.signal_layer(signals)))
            watch = watch + self.watch_head(torch.relu(self.watch_hidden(hidden)))
        if self.outcome_part == "full":
            hidden = self.dropout(torch.relu(trunk))
            outcome = outcome + self.outcome_head(torch.relu(self.outcome_hidden(hidden)))
        if self.watch_part == "retrieval":
            watch = inputs["retrieval_features"][..., _TWO_TOWER : _TWO_TOWER + 1]
        level = self.watch_viewer(self.viewer(inputs["viewer_features"]))
        return watch[..., 0], level, outcome

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return probabilities of the schema's tasks, float32[b, n, t].

        Args:
            inputs: by name:
                candidate_vectors: float32[b, n, d].
                candidate_features: VIDEO_FEATURES, float32[b, n, f].
                retrieval_features: RETRIEVAL_FEATURES, float32[b, n, r].
                match_features: the schema's, float32[b, n, m].
                history_vectors: float32[b, h, d], oldest first, padded on the right.
                history_lengths: int64[b], from 0 to h.
                viewer_features: VIEWER_FEATURES, float32[b, v].
                attributes: int64[b, a], 0 for padding.
                context: int64[b, c], 0 if unknown; c may be 0.
        """
        watch, level, outcome = self.logits(inputs)
        logits = torch.cat([(watch + level)[..., None], outcome], -1)
        return torch.sigmoid(logits * self.calibration[:, 0] + self.calibration[:, 1])


def steps_back(lengths: Tensor, width: int) -> Tensor:
    """Return how many steps before the last watch each position of the history is, [b, width].

    Negative on padding.
    """
    return lengths[:, None] - 1 - torch.arange(width, device=lengths.device)
