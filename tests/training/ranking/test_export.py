from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vireo.server.inference.model import Model
from vireo.server.inference.signature import ranker_signature
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.onnx_export import ExportError
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.export import (
    check_ranker,
    example_inputs,
    export_cases,
    export_ranker,
    torch_scores,
)
from vireo.training.ranking.model import Ranker, WatchPart

pytestmark = pytest.mark.slow

VECTOR_SIZE = 8
SCHEMA = FeatureSchema.ours(history_limit=200, vector_size=VECTOR_SIZE)


def random_ranker() -> Ranker:
    torch.manual_seed(5)
    model = Ranker(RankingConfig(hidden=8), SCHEMA, attribute_count=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Path]:
    model, path = random_ranker(), tmp_path_factory.mktemp("ranker") / "1" / "model.onnx"
    export_ranker(model, path)
    return model, path


def test_the_export_equals_pytorch_for_sizes_it_was_not_tried_with(
    exported: tuple[Ranker, Path],
) -> None:
    model, path = exported
    signature = ranker_signature(VECTOR_SIZE, tasks=len(SCHEMA.tasks))
    for batch, candidates, history in ((1, 300, 50), (5, 3, 2), (11, 17, 31)):
        inputs = example_inputs(model, batch, candidates, history)
        given = Model(path, signature).run(inputs)
        assert np.abs(given - torch_scores(model, inputs)).max() < 1e-4


def test_every_kind_of_request_is_tried() -> None:
    cases = dict(export_cases(random_ranker()))
    assert {len(inputs["history_lengths"]) for inputs in cases.values()} >= {1, 2, 7}
    assert cases["an empty history"]["history_lengths"].tolist() == [0]
    assert cases["a full history"]["history_lengths"].tolist() == [50, 50]
    assert not cases["an unseen viewer"]["attributes"].any()
    assert cases["one candidate"]["candidate_vectors"].shape[1] == 1


def test_a_model_that_differs_from_its_export_is_refused(exported: tuple[Ranker, Path]) -> None:
    model, path = random_ranker(), exported[1]
    with torch.no_grad():
        model.outcome_linear.bias.add_(0.01)
    with pytest.raises(ExportError, match="a batch of 1"):
        check_ranker(model, path)


@pytest.mark.parametrize("part", ["retrieval", "linear"])
def test_a_smaller_choice_exports_too(part: WatchPart, tmp_path: Path) -> None:
    model = random_ranker()
    model.watch_part, model.outcome_part = part, "linear"
    export_ranker(model, tmp_path / "model.onnx")
