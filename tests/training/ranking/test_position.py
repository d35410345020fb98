"""A world in which viewers play less of what is further down, and what the ranker makes of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from rich.progress import Progress

from tests.builders.ranking_sets import ATTRIBUTES, SCHEMA, VECTORS, VIDEOS, ranking_set, viewers
from vireo.server.features.model_inputs import MATCH_FEATURES, RETRIEVAL_FEATURES, VIDEO_FEATURES
from vireo.server.signals import OUTCOMES
from vireo.training.config import RankingConfig
from vireo.training.modules import Checkpoints
from vireo.training.ranking.loss import Batches
from vireo.training.ranking.train import RankingTrainer
from vireo.training.ranking.training_set import RankingSet, ShownLists

pytestmark = pytest.mark.slow
SLATES, PAGE = 3000, 10
CONFIG = RankingConfig(hidden=8, epochs=6, patience=6, batch_lists=4, batch_slates=64)
TWO_TOWER = RETRIEVAL_FEATURES.index("two_tower")
EXAMINED = 1 / np.arange(1, PAGE + 1)
"""Probability that a viewer looks at each position."""


def relevance(lists: ShownLists) -> np.ndarray:
    """The probability of a play of what a viewer looks at: two-tower scores say little of it."""
    liked = lists.features[..., VIDEO_FEATURES.index("like_rate")]
    logit = 2 * lists.match[..., 0] + 3 * (liked - 0.5) + 0.2 * lists.retrieval[..., TWO_TOWER]
    return np.asarray(1 / (1 + np.exp(1.0 - logit)))


def shown(seed: int, *, biased: bool, surfaces: int = 1) -> ShownLists:
    """Slates in the order of two-tower scores, roughly, and what was played of them."""
    chance = np.random.default_rng(seed)
    size = (SLATES, PAGE)
    retrieval = np.zeros((*size, len(RETRIEVAL_FEATURES)), np.float32)
    scores = chance.normal(size=size)
    order = np.argsort(-scores - 0.5 * chance.normal(size=size), axis=1)
    retrieval[..., TWO_TOWER] = np.take_along_axis(scores, order, 1)
    lists = ShownLists(
        viewers=viewers(chance, SLATES),
        rows=chance.integers(0, VIDEOS, size),
        features=chance.random((*size, len(VIDEO_FEATURES)), np.float32),
        retrieval=retrieval,
        match=chance.normal(size=(*size, len(MATCH_FEATURES))).astype(np.float32),
        surface=chance.integers(0, surfaces, SLATES),
        position=np.tile(np.arange(PAGE), (SLATES, 1)),
        played=np.zeros(size, np.float32),
        outcomes=np.full((*size, len(OUTCOMES)), np.nan, np.float32),
    )
    looked = chance.random(size) < (EXAMINED if biased else EXAMINED.mean())
    played = looked & (chance.random(size) < relevance(lists))
    return replace(lists, played=played.astype(np.float32))


def learned_from(lists: ShownLists, folder: Path, config: RankingConfig = CONFIG) -> RankingTrainer:
    """Both parts, after all epochs; the data set's lists say nothing, since retrieval missed."""
    known = ranking_set("two_tower")
    missed = replace(known.watches, label=np.full_like(known.watches.label, -1))
    data, checkpoints = RankingSet(missed, known.outcomes, lists), Checkpoints(folder, "")
    trainer = RankingTrainer(data, VECTORS, SCHEMA, ATTRIBUTES, config, checkpoints)
    with Progress(disable=True) as progress:
        trainer.phase("linear", 0.0, progress)
        trainer.phase("full", 0.0, progress)
    trainer.model.eval()
    return trainer


@torch.no_grad()
def ndcg(trainer: RankingTrainer) -> float:
    """NDCG of the model's order of other slates, by their true relevance."""
    lists = shown(99, biased=False)
    inputs, _ = Batches(VECTORS).inputs(lists, np.arange(SLATES))
    order = trainer.model.logits(inputs)[0].numpy()
    gains, discounts = relevance(lists), 1 / np.log2(np.arange(PAGE) + 2)
    ours = np.take_along_axis(gains, np.argsort(-order, axis=1), 1) @ discounts
    best = -np.sort(-gains, axis=1) @ discounts
    return float((ours / best).mean())


@cache
def learned(*, biased: bool, seed: int = 1) -> float:
    """NDCG of what is learnt from slates with or without position bias."""
    with TemporaryDirectory() as folder:
        return ndcg(learned_from(shown(seed, biased=biased), Path(folder)))


def test_the_order_is_that_of_a_training_without_position_bias() -> None:
    assert learned(biased=True) >= 0.97 * learned(biased=False)


def test_who_ignores_positions_learns_a_worse_order(tmp_path: Path) -> None:
    lists = shown(1, biased=True)
    ignoring = replace(lists, position=np.zeros_like(lists.position))
    assert ndcg(learned_from(ignoring, tmp_path)) < 0.96 * learned(biased=False)


def test_positions_further_down_are_learnt_to_be_played_less(tmp_path: Path) -> None:
    trainer = learned_from(shown(2, biased=True, surfaces=2), tmp_path)
    for effects in trainer.model.watch_position.detach().numpy():
        assert effects[0] > effects[1] > effects[5:PAGE].mean()
        # What was never shown says nothing.
        assert not effects[PAGE:].any()


def test_what_is_not_known_to_be_seen_says_nothing(tmp_path: Path) -> None:
    lists = shown(3, biased=True)
    played = lists.played.copy()
    played[:, 5:] = np.nan
    other = replace(lists, features=lists.features.copy(), played=played)
    other.features[:, 5:] = 0.5
    config = replace(CONFIG, epochs=1)
    seen, unseen = (
        learned_from(each, tmp_path / str(number), config).model
        for number, each in enumerate((replace(lists, played=played), other))
    )
    for name, weights in seen.state_dict().items():
        assert torch.equal(weights, unseen.state_dict()[name]), name
