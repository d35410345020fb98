"""Id embeddings before training, and the estimates of them after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders.watches import towers_data
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import HeldOut, RetrievalData
from vireo.training.retrieval.embeddings import (
    SPREAD,
    best_scores,
    fair_lift,
    fill_unseen,
    first_vectors,
)
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import train_retrieval, trained_weights
from vireo.training.retrieval.trainer import RetrievalTrainer
from vireo.training.retrieval.validation import tower_scorer

UNSEEN = ["new-cat", "new-dog"]


def filled(
    data: RetrievalData, config: RetrievalConfig
) -> tuple[TwoTower, torch.Tensor, torch.Tensor]:
    """Random towers with estimates, and the videos' vectors before and after."""
    torch.manual_seed(1)
    model = TwoTower(data, config).eval()
    before = model.video_vectors()
    fill_unseen(model, data)
    return model, before, model.video_vectors()


def test_an_unseen_video_is_found_by_those_who_watch_its_like(
    cats_and_dogs: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = train_retrieval(cats_and_dogs, replace(small, id_dropout=0.2), tmp_path)
    viewers = [cats_and_dogs.viewer_features(viewer) for viewer in range(60)]
    asked = [HeldOut(viewer, np.empty(0, np.int64), 0) for viewer in viewers]
    scores = tower_scorer(model, cats_and_dogs)(asked)
    cat, dog = (cats_and_dogs.video_ids.index(name) for name in UNSEEN)
    # Both halves are in the order of their ids: cats first, then dogs by turns.
    assert (scores[::2, cat] > scores[::2, dog]).all()
    assert (scores[1::2, dog] > scores[1::2, cat]).all()


def test_an_embedding_is_drawn_to_the_estimate_by_its_watches(
    cats_and_dogs: RetrievalData, small: RetrievalConfig
) -> None:
    model, before, after = filled(cats_and_dogs, replace(small, estimate_weight=12.0))
    cat, new = (cats_and_dogs.video_ids.index(name) for name in ("cat-0", "new-cat"))
    watches = cats_and_dogs.watch_counts[cat]
    assert watches > 0
    # Their content is the same, so that what the unseen one has is the estimate.
    estimate = after[new] - model.video_tower.unseen_step
    assert torch.allclose(
        after[cat], (watches * before[cat] + 12 * estimate) / (watches + 12), atol=1e-6
    )


def test_without_a_weight_of_the_estimate_only_unseen_videos_with_content_change(
    cats_and_dogs: RetrievalData, small: RetrievalConfig
) -> None:
    _, before, after = filled(cats_and_dogs, replace(small, estimate_weight=0.0))
    changed = torch.where((after != before).any(1))[0]
    assert [cats_and_dogs.video_ids[row] for row in changed] == UNSEEN


def test_a_video_first_watched_later_goes_on_from_where_it_was_served(
    small: RetrievalConfig, tmp_path: Path
) -> None:
    walks = {
        f"viewer-{viewer:02}": [f"cat-{(viewer + step) % 20}" for step in range(12)]
        for viewer in range(60)
    }
    walks["viewer-00"][-1] = "new-cat"
    ids = [*(f"cat-{number}" for number in range(20)), "new-cat"]
    first, every = (towers_data(walks, ids, [["cat"]] * len(ids), held_out=last) for last in (1, 0))
    served = train_retrieval(first, replace(small, epochs=2), tmp_path).video_vectors()[-1]
    trainer = RetrievalTrainer(every, small, trained_weights(tmp_path))
    assert every.watch_counts[-1] == 1
    with torch.no_grad():
        started = trainer.average.model.eval().video_vectors()[-1]
    assert torch.allclose(started, served, atol=1e-6)


def test_a_lift_gives_videos_their_share_of_places_and_no_more() -> None:
    scores = torch.randn((50, 400), generator=torch.Generator().manual_seed(0))
    lifted = torch.arange(400) < 20
    scores[:, lifted] -= 3
    slopes = torch.ones((50, 1))

    def held(lift: float) -> float:
        best = (scores + lift * slopes * lifted).topk(100, dim=1).indices
        return float(lifted[best].float().mean())

    def lift_of(scores: torch.Tensor) -> float:
        hidden = [scores.masked_fill(some, -torch.inf) for some in (lifted, ~lifted)]
        fixed, lower = (own.topk(100, dim=1).values for own in hidden)
        return fair_lift(fixed, lower, slopes, 0.05)

    lift = lift_of(scores)
    assert held(lift) == pytest.approx(0.05, abs=0.001)
    assert held(lift - 0.05) < 0.05
    assert lift_of(scores + 6 * lifted) == 0


def test_the_best_scores_are_of_some_videos_that_the_viewer_has_not_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(1)
    states, vectors = (torch.randn((count, 6), generator=random) for count in (7, 300))
    some = torch.arange(300) % 2 == 0
    watched = [np.arange(viewer, viewer + 20) for viewer in range(7)]
    whole = best_scores(states, vectors, some, watched)
    monkeypatch.setattr("vireo.training.retrieval.embeddings.SCORES_AT_ONCE", 900)
    assert torch.allclose(best_scores(states, vectors, some, watched), whole, atol=1e-5)
    free = sorted(set(range(0, 300, 2)) - set(watched[3].tolist()))
    expected = (states @ vectors.T)[3, free].topk(100).values
    assert torch.allclose(whole[3], expected, atol=1e-5)


@pytest.fixture(scope="module")
def two_worlds() -> RetrievalData:
    """Viewers watch some of the even videos, or some of the odd ones; v20 is unwatched."""
    ids = [f"v{row}" for row in range(21)]
    random = np.random.default_rng(0)
    walks = {
        f"viewer-{number:02}": [ids[2 * row + number % 2] for row in random.permutation(10)[:5]]
        for number in range(40)
    }
    return towers_data(walks, ids)


def vectors_of(data: RetrievalData, seed: int = 0) -> np.ndarray:
    vectors = first_vectors(data, 4, seed)
    assert vectors is not None
    return vectors


def test_videos_of_one_world_start_nearer_to_each_other_than_to_the_other_world(
    two_worlds: RetrievalData,
) -> None:
    vectors = vectors_of(two_worlds)
    assert vectors.shape == (21, 4)
    assert vectors.dtype == np.float32
    assert vectors.std() == pytest.approx(SPREAD, rel=0.1)
    likeness = vectors @ vectors.T
    even, odd = likeness[0, 2:20:2], likeness[0, 1:20:2]
    assert even.max() > 0
    assert even.mean() > odd.mean()
    assert np.allclose(vectors[20], 0, atol=1e-6)


def test_the_seed_turns_the_start(two_worlds: RetrievalData) -> None:
    first, again, other = (vectors_of(two_worlds, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    # Only turned: how near videos are to each other stays.
    assert np.allclose(first @ first.T, other @ other.T, atol=1e-6)


def test_too_few_videos_or_watches_give_no_start(two_worlds: RetrievalData) -> None:
    assert first_vectors(two_worlds, 21, seed=0) is None
    lonely = towers_data({"a": ["v0"], "b": ["v1"]}, ["v0", "v1", "v2"])
    assert first_vectors(lonely, 2, seed=0) is None
