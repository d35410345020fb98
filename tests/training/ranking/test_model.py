"""The ranker as it is trained, by which losses, and as it is served."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vireo.server.features.context import NAMES
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.models.model import Model
from vireo.server.models.signature import ranker_signature
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.config import RankingConfig
from vireo.training.ranking.loss import level_loss, listwise_loss, outcome_loss
from vireo.training.ranking.model import OutcomePart, Ranker, WatchPart
from vireo.training.ranking.served import ServedRanker, export_ranker, torch_scores

VECTOR_SIZE = 8
SCHEMA = FeatureSchema.ours(history_limit=200, vector_size=VECTOR_SIZE)
CONTEXT_SCHEMA = FeatureSchema.ours(200, VECTOR_SIZE, NAMES, languages=True)
"""That of a release whose models read every feature of the context."""
PARTS = list(product(get_args(WatchPart), get_args(OutcomePart)))


def ranker(schema: FeatureSchema = SCHEMA) -> Ranker:
    """A ranker of which no weight, scale or offset is what a new one has."""
    torch.manual_seed(6)
    config = RankingConfig(hidden=8, context_dropout=0.5, dropout=0.0)
    model = Ranker(config, schema, attribute_count=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for embedding in model.context.features:
            embedding.weight[0] = 0  # type: ignore[operator]
        for part in (model.signals, model.viewer):
            part.mean.normal_()
            part.scale.uniform_(0.5, 2.0)
        model.co_watch_unit.fill_(0.3)
        tasks = len(model.calibration)
        offsets = torch.linspace(-0.6, 0.3, tasks)
        model.calibration.copy_(torch.stack([torch.linspace(1.4, 0.7, tasks), offsets], 1))
    return model


@pytest.fixture
def model() -> Ranker:
    return ranker()


def example_inputs(
    model: Ranker, batch: int, candidates: int, history: int
) -> dict[str, NDArray[Any]]:
    """Return reproducible random inputs of the given sizes, with histories of all lengths."""
    random = np.random.default_rng([batch, candidates, history])
    vocabulary, schema = model.attribute.num_embeddings, model.schema
    vector_size, matches = schema.vector_size, len(schema.match_features)
    retrieval = random.normal(size=(batch, candidates, len(RETRIEVAL_FEATURES)))
    co_watch, first_source = (
        RETRIEVAL_FEATURES.index(name) for name in ("co_watch", "from_two_tower")
    )
    retrieval[..., co_watch] = np.abs(retrieval[..., co_watch])
    retrieval[..., first_source:] = retrieval[..., first_source:] > 0
    inputs = {
        "candidate_vectors": random.normal(size=(batch, candidates, vector_size)).astype("f4"),
        "candidate_features": random.random((batch, candidates, len(VIDEO_FEATURES)), "f4"),
        "retrieval_features": retrieval.astype("f4"),
        "match_features": random.uniform(-1, 1, (batch, candidates, matches)).astype("f4"),
        "history_vectors": random.normal(size=(batch, history, vector_size)).astype("f4"),
        "history_lengths": np.arange(batch, dtype=np.int64)[::-1] * history // max(batch - 1, 1),
        "viewer_features": random.random((batch, len(VIEWER_FEATURES)), "f4"),
        "attributes": random.integers(0, vocabulary, (batch, ATTRIBUTE_LIMIT)),
    }
    if schema.context_features:
        ids = [random.integers(0, size, batch) for size in schema.context_features.values()]
        inputs["context"] = np.stack(ids, 1)
    return inputs


def inputs_of(
    model: Ranker, batch: int = 4, candidates: int = 6, history: int = 5
) -> dict[str, Tensor]:
    arrays = example_inputs(model, batch, candidates, history)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def cases_of(model: Ranker) -> Iterator[dict[str, Tensor]]:
    """Inputs of every kind that occurs in serving."""
    for sizes in ((1, 50, 12), (2, 50, 12), (7, 50, 12), (1, 1, 3), (5, 3, 2), (11, 17, 31)):
        yield inputs_of(model, *sizes)
    full = inputs_of(model, 2, 20, RANKER_HISTORY)
    yield full | {"history_lengths": torch.full((2,), RANKER_HISTORY)}
    unknown = inputs_of(model, 1, 20, 1)
    for name in ("history_vectors", "history_lengths", "attributes", "context"):
        if name in unknown:
            unknown[name] = torch.zeros_like(unknown[name])
    yield unknown


def test_an_untrained_ranker_keeps_the_two_tower_order() -> None:
    model = Ranker(RankingConfig(), SCHEMA, attribute_count=5).eval()
    inputs = inputs_of(model)
    inputs["candidate_features"] = torch.full_like(inputs["candidate_features"], 0.5)
    model.fit_inputs(inputs, torch.ones(4, 6, dtype=torch.bool))
    watch = model(**inputs)[..., 0]
    two_tower = inputs["retrieval_features"][..., RETRIEVAL_FEATURES.index("two_tower")]
    assert torch.equal(watch.argsort(1), two_tower.argsort(1))
    order, _, _ = model.logits(inputs)
    shift = order - two_tower
    assert torch.allclose(shift, shift.mean().expand_as(shift), atol=1e-5)
    assert (model.signals.scale > 0).all(), "those of constant columns too"
    assert not any("context" in name for name in model.state_dict())


def test_scores_are_probabilities_of_each_viewer_and_candidate_alone(model: Ranker) -> None:
    inputs = inputs_of(model)
    scores = model(**inputs)
    assert scores.shape == (4, 6, len(SCHEMA.tasks))
    assert ((scores > 0) & (scores < 1)).all()
    single = [model(**{name: value[i : i + 1] for name, value in inputs.items()}) for i in range(4)]
    assert torch.allclose(scores, torch.cat(single), atol=1e-6)
    fewer = {
        name: value[:, 2:4] if name.startswith(("candidate", "retrieval", "match_")) else value
        for name, value in inputs.items()
    }
    assert torch.allclose(scores[:, 2:4], model(**fewer), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["history_vectors", "attributes", "candidate_vectors", "viewer_features"]
)
def test_all_tasks_read_viewer_and_candidate(model: Ranker, name: str) -> None:
    inputs = inputs_of(model)
    changed = inputs | {name: torch.zeros_like(inputs[name])}
    difference = (model(**inputs) - model(**changed)).abs().amax((0, 1))
    assert (difference > 1e-5).all(), difference


def test_tasks_of_outcomes_read_nothing_of_retrieval_and_histories_have_an_order(
    model: Ranker,
) -> None:
    inputs = inputs_of(model)
    other = inputs | {"retrieval_features": torch.rand_like(inputs["retrieval_features"])}
    scores, others = model(**inputs), model(**other)
    assert torch.equal(scores[..., 1], others[..., 1])
    assert not torch.allclose(scores[..., 0], others[..., 0])
    inputs["history_lengths"][:] = 5
    turned = inputs | {"history_vectors": inputs["history_vectors"].flip(1)}
    assert not torch.allclose(model(**inputs), model(**turned))


def test_a_ranker_reads_the_context_of_each_viewer() -> None:
    model = ranker(CONTEXT_SCHEMA)
    tensors = inputs_of(model, 2, 6, 3)
    before = model(**tensors)
    tensors["context"][1, 0] = (tensors["context"][1, 0] + 1) % 5
    after = model(**tensors)
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3


@pytest.mark.parametrize("schema", [SCHEMA, CONTEXT_SCHEMA], ids=["plain", "context"])
@pytest.mark.parametrize(("watch_part", "outcome_part"), PARTS)
def test_each_part_of_the_model_is_served_as_it_was_trained(
    watch_part: WatchPart, outcome_part: OutcomePart, schema: FeatureSchema
) -> None:
    model = ranker(schema)
    model.watch_part, model.outcome_part = watch_part, outcome_part
    before = {name: value.clone() for name, value in model.state_dict().items()}
    served = ServedRanker(model)
    with torch.no_grad():
        for case, tensors in enumerate(cases_of(model)):
            wanted, found = model(**tensors), served(**tensors)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=f"case {case}")
            # Padding has no part in any score.
            history = tensors["history_vectors"]
            padded = torch.arange(history.shape[1]) >= tensors["history_lengths"][:, None]
            history[padded] = 7.0
            torch.testing.assert_close(served(**tensors), found)
    for weight in served.weights.values():
        weight.fill_(9.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_column_that_hardly_varies_keeps_its_digits(model: Ranker) -> None:
    age = len(RETRIEVAL_FEATURES) + VIDEO_FEATURES.index("log_age_days")
    model.signals.mean[age], model.signals.scale[age] = 8.0, 1e-3
    tensors = inputs_of(model, 7, 50, 12)
    spread = torch.linspace(-2e-3, 2e-3, 50)
    tensors["candidate_features"][..., VIDEO_FEATURES.index("log_age_days")] = 8.0 + spread
    with torch.no_grad():
        served = ServedRanker(model)(**tensors)
        torch.testing.assert_close(served, model(**tensors), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("watch_part", get_args(WatchPart))
def test_the_export_equals_pytorch(watch_part: WatchPart, tmp_path: Path) -> None:
    for schema in (SCHEMA, CONTEXT_SCHEMA):
        model = ranker(schema)
        model.watch_part = watch_part
        model.outcome_part = "linear" if watch_part == "retrieval" else "full"
        export_ranker(model, tmp_path / "model.onnx")
        served = Model(tmp_path / "model.onnx", ranker_signature(schema))
        for tensors in cases_of(model):
            inputs = {name: value.numpy() for name, value in tensors.items()}
            assert np.abs(served.run(inputs) - torch_scores(model, inputs)).max() < 1e-4


REAL = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(("labels", "counted"), [([2, 0], [0, 1]), ([1, -1], [0]), ([-1, -1], [])])
def test_the_listwise_loss_is_that_of_the_watched_video_among_the_real_ones(
    labels: list[int], counted: list[int]
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 99.0]])
    losses = [-torch.log_softmax(logits[n][REAL[n]], 0)[labels[n]].item() for n in counted]
    found = listwise_loss(logits, REAL, torch.tensor(labels)).item()
    assert found == pytest.approx(sum(losses) / max(len(losses), 1))


def test_the_level_counts_a_missed_list_as_all_negatives_and_no_padding() -> None:
    low, missed = torch.full((2, 3), -5.0), torch.tensor([-1, -1])
    assert level_loss(low, REAL, missed) < level_loss(-low, REAL, missed)
    other, label = low.clone(), torch.tensor([0, 1])
    other[1, 2] = 50.0
    assert torch.equal(level_loss(low, REAL, label), level_loss(other, REAL, label))


def test_an_unknown_outcome_counts_for_no_loss_and_no_gradient() -> None:
    nan = float("nan")
    logits = torch.tensor([[1.0, 5.0], [2.0, 5.0]], requires_grad=True)
    losses = outcome_loss(logits, torch.tensor([[1.0, nan], [nan, nan]]))
    assert losses.tolist() == pytest.approx([-torch.sigmoid(torch.tensor(1.0)).log().item(), 0])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[1:].tolist() == [[0, 0]]
