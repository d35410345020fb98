from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vireo.server.features.ranking_inputs import RETRIEVAL_FEATURES
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.export import example_inputs
from vireo.training.ranking.model import Ranker

VECTOR_SIZE = 8
SCHEMA = FeatureSchema.ours(history_limit=200, vector_size=VECTOR_SIZE)


@pytest.fixture
def model() -> Ranker:
    """A ranker whose every weight matters."""
    torch.manual_seed(3)
    model = Ranker(RankingConfig(hidden=8), SCHEMA, attribute_count=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs_of(
    model: Ranker, batch: int = 4, candidates: int = 6, history: int = 5
) -> dict[str, Tensor]:
    arrays = example_inputs(model, batch, candidates, history)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_an_untrained_ranker_keeps_the_two_tower_order() -> None:
    model = Ranker(RankingConfig(), SCHEMA, attribute_count=5).eval()
    inputs = inputs_of(model)
    model.fit_inputs(inputs, torch.ones(4, 6, dtype=torch.bool))
    watch = model(**inputs)[..., 0]
    two_tower = inputs["retrieval_features"][..., RETRIEVAL_FEATURES.index("two_tower")]
    assert torch.equal(watch.argsort(1), two_tower.argsort(1))
    order, _, _ = model.logits(inputs)
    shift = order - two_tower
    assert torch.allclose(shift, shift.mean().expand_as(shift), atol=1e-5)


def test_scores_are_probabilities(model: Ranker) -> None:
    scores = model(**inputs_of(model))
    assert scores.shape == (4, 6, len(SCHEMA.tasks))
    assert ((scores > 0) & (scores < 1)).all()


def test_padding_of_the_history_changes_nothing(model: Ranker) -> None:
    inputs = inputs_of(model)
    padded = dict(inputs)
    junk = torch.full((4, 3, VECTOR_SIZE), 7.0)
    padded["history_vectors"] = torch.cat([inputs["history_vectors"], junk], 1)
    assert torch.allclose(model(**inputs), model(**padded), atol=1e-6)


def test_a_batch_scores_like_its_viewers_one_by_one(model: Ranker) -> None:
    inputs = inputs_of(model)
    single = [model(**{name: value[i : i + 1] for name, value in inputs.items()}) for i in range(4)]
    assert torch.allclose(model(**inputs), torch.cat(single), atol=1e-6)


def test_a_candidates_score_does_not_depend_on_the_others(model: Ranker) -> None:
    inputs = inputs_of(model)
    fewer = {
        name: value[:, 2:4] if name.startswith(("candidate", "retrieval", "match_")) else value
        for name, value in inputs.items()
    }
    assert torch.allclose(model(**inputs)[:, 2:4], model(**fewer), atol=1e-6)


def test_the_like_task_reads_nothing_of_retrieval(model: Ranker) -> None:
    inputs = inputs_of(model)
    other = inputs | {"retrieval_features": torch.rand_like(inputs["retrieval_features"])}
    scores, others = model(**inputs), model(**other)
    assert torch.equal(scores[..., 1], others[..., 1])
    assert not torch.allclose(scores[..., 0], others[..., 0])


@pytest.mark.parametrize(
    "name", ["history_vectors", "attributes", "candidate_vectors", "viewer_features"]
)
def test_both_tasks_read_viewer_and_candidate(model: Ranker, name: str) -> None:
    inputs = inputs_of(model)
    changed = inputs | {name: torch.zeros_like(inputs[name])}
    difference = (model(**inputs) - model(**changed)).abs().amax((0, 1))
    assert (difference > 1e-5).all(), difference


def test_an_order_of_the_history_matters(model: Ranker) -> None:
    inputs = inputs_of(model, batch=1)
    inputs["history_lengths"] = torch.tensor([5])
    turned = inputs | {"history_vectors": inputs["history_vectors"].flip(1)}
    assert not torch.allclose(model(**inputs), model(**turned))


def test_constant_columns_are_left_as_they_are() -> None:
    model = Ranker(RankingConfig(), SCHEMA, attribute_count=5)
    inputs = inputs_of(model)
    inputs["candidate_features"] = torch.full_like(inputs["candidate_features"], 0.5)
    model.fit_inputs(inputs, torch.ones(4, 6, dtype=torch.bool))
    assert np.isfinite(model.eval()(**inputs).detach().numpy()).all()
    assert (model.signals.scale > 0).all()


def contextual() -> Ranker:
    schema = FeatureSchema.ours(200, VECTOR_SIZE, ("hour", "language"), languages=True)
    model = Ranker(RankingConfig(hidden=8, context_dropout=0.5, dropout=0.0), schema, 5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for embedding in model.context.features:
        torch.nn.init.zeros_(embedding.weight[0])  # type: ignore[index]
    return model


def test_a_ranker_reads_the_context_of_each_viewer() -> None:
    model = contextual().eval()
    tensors = {
        name: torch.from_numpy(array) for name, array in example_inputs(model, 2, 6, 3).items()
    }
    assert tensors["context"].shape == (2, 2)
    assert tensors["match_features"].shape == (2, 6, 2)
    before = model(**tensors)

    tensors["context"][1] = torch.tensor([3, 80])

    after = model(**tensors)
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3


def test_training_drops_a_lists_context_with_its_language_match() -> None:
    model = contextual().train()
    inputs = {
        name: torch.from_numpy(array) for name, array in example_inputs(model, 40, 6, 3).items()
    }
    inputs["context"][:] = 1

    some = model._some_contexts(inputs)

    kept = some["context"].all(-1)
    assert 5 < kept.sum() < 35
    assert torch.equal(kept, some["context"].any(-1))
    assert torch.equal(some["match_features"][..., 0], inputs["match_features"][..., 0])
    assert torch.equal(some["match_features"][kept], inputs["match_features"][kept])
    assert not some["match_features"][~kept][..., 1].any()


def test_without_context_a_ranker_has_no_weights_of_it() -> None:
    model = Ranker(RankingConfig(hidden=8), SCHEMA, attribute_count=5)
    assert not any("context" in name for name in model.state_dict())
    assert "context" not in example_inputs(model, 2, 6, 3)
