from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from vireo.server.features.context import NAMES
from vireo.server.features.ranking_inputs import RETRIEVAL_FEATURES, VIDEO_FEATURES
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.export import export_cases, torch_scores
from vireo.training.ranking.model import OutcomePart, Ranker, WatchPart
from vireo.training.ranking.served import ServedRanker

VECTOR_SIZE = 8
SCHEMA = FeatureSchema.ours(history_limit=200, vector_size=VECTOR_SIZE)
PARTS = list(product(get_args(WatchPart), get_args(OutcomePart)))


CONTEXT_SCHEMA = FeatureSchema.ours(200, VECTOR_SIZE, NAMES, languages=True)
"""That of a release whose models read every feature of the context."""


def fitted_ranker(schema: FeatureSchema = SCHEMA) -> Ranker:
    """No weight, scale or offset of it is what a new one has."""
    torch.manual_seed(6)
    model = Ranker(RankingConfig(hidden=8), schema, attribute_count=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for part in (model.signals, model.viewer):
            part.mean.normal_()
            part.scale.uniform_(0.5, 2.0)
        model.co_watch_unit.fill_(0.3)
        model.calibration.copy_(torch.tensor([[1.4, -0.6], [0.7, 0.2], [0.9, 0.1], [1.2, -0.3]]))
    return model


@pytest.mark.parametrize("schema", [SCHEMA, CONTEXT_SCHEMA], ids=["plain", "context"])
@pytest.mark.parametrize(("watch_part", "outcome_part"), PARTS)
def test_each_part_of_the_model_scores_as_it_was_trained(
    watch_part: WatchPart, outcome_part: OutcomePart, schema: FeatureSchema
) -> None:
    model = fitted_ranker(schema)
    model.watch_part, model.outcome_part = watch_part, outcome_part
    served = ServedRanker(model)
    for case, inputs in export_cases(model):

        def in_case(text: str, case: str = case) -> str:
            return f"{case}: {text}"

        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.no_grad():
            scores = served(**tensors)
        trained = torch.from_numpy(torch_scores(model, inputs))
        torch.testing.assert_close(scores, trained, atol=1e-5, rtol=0, msg=in_case)


def test_a_column_that_hardly_varies_keeps_its_digits() -> None:
    model = fitted_ranker()
    age = len(RETRIEVAL_FEATURES) + VIDEO_FEATURES.index("log_age_days")
    model.signals.mean[age], model.signals.scale[age] = 8.0, 1e-3
    inputs = dict(export_cases(model))["a batch of 7"]
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    spread = torch.linspace(-2e-3, 2e-3, tensors["candidate_features"].shape[1])
    tensors["candidate_features"][..., VIDEO_FEATURES.index("log_age_days")] = 8.0 + spread
    with torch.no_grad():
        torch.testing.assert_close(
            ServedRanker(model)(**tensors), model(**tensors), atol=1e-5, rtol=0
        )


def test_a_history_is_never_longer_than_its_watches() -> None:
    model = fitted_ranker()
    served = ServedRanker(model)
    inputs = dict(export_cases(model))["a batch of 2"]
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    width = tensors["history_vectors"].shape[1]
    with torch.no_grad():
        tensors["history_lengths"][:] = width
        wanted = served(**tensors)
        tensors["history_lengths"][:] = width + 9
        torch.testing.assert_close(served(**tensors), wanted)


def test_padding_has_no_part_in_any_score() -> None:
    model = fitted_ranker()
    served = ServedRanker(model)
    inputs = dict(export_cases(model))["a batch of 7"]
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        scores = served(**tensors)
        for row, length in enumerate(inputs["history_lengths"].tolist()):
            tensors["history_vectors"][row, length:] = 7.0
        torch.testing.assert_close(served(**tensors), scores)


def test_the_trained_model_stays_as_it_was() -> None:
    model = fitted_ranker()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    served = ServedRanker(model)
    for buffer in served.buffers():
        buffer.fill_(9.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
