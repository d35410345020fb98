"""ONNX Runtime's outputs of both towers are PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from tests.builders.towers import random_towers
from tests.builders.watches import towers_data
from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.context import sizes
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS
from vireo.server.models.model import Model
from vireo.server.models.signature import VIDEOS, tower_signature
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval import embeddings
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.embeddings import fill_unseen
from vireo.training.retrieval.export import (
    ContentTower,
    export_video_tower,
    export_viewer_tower,
)
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors

pytestmark = pytest.mark.slow


def example_inputs(model: TwoTower, lengths: list[int]) -> dict[str, NDArray[Any]]:
    """Return random inputs for histories of these lengths, at most the model's limit."""
    rng = np.random.default_rng(len(lengths))
    shape = (len(lengths), max(1, min(max(lengths), model.config.history_limit)))
    real = np.arange(shape[1]) < np.minimum(lengths, shape[1])[:, None]
    inputs = {
        "history": np.where(real, rng.integers(1, model.video_count + 1, shape), 0),
        "gaps": np.where(real, rng.integers(0, GAP_BUCKETS, shape), 0),
        "asked_gap": rng.integers(0, GAP_BUCKETS, len(lengths)),
        "lengths": np.array(lengths, np.int64),
        "attributes": rng.integers(0, model.attribute_count + 1, (len(lengths), ATTRIBUTE_LIMIT)),
    }
    if model.context:
        ids = [rng.integers(0, size, len(lengths)) for size in sizes(model.context)]
        inputs["context"] = np.stack(ids, 1)
    return inputs


@pytest.mark.parametrize("precision", [np.float32, np.float16])
@pytest.mark.parametrize("kind", ["ring", "of_context"])
def test_every_kind_of_request_has_the_vector_that_pytorch_gives_it(
    kind: str,
    precision: type[np.float32 | np.float16],
    small: RetrievalConfig,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = random_towers(request.getfixturevalue(kind), small)
    path = tmp_path / "viewer_tower" / "1" / "model.onnx"
    export_viewer_tower(model, path, precision)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "vectors.npy"]
    vectors = np.load(path.with_name("vectors.npy"))
    assert vectors.dtype == precision
    videos = model.video_vectors().detach().numpy()
    assert np.array_equal(vectors, videos.astype(precision)), "they lie beside the model"
    table = readable(torch.from_numpy(vectors.astype(np.float32)))
    schema = FeatureSchema.ours(small.history_limit, 16, model.context)
    served = Model(path, tower_signature(schema), {VIDEOS: vectors})
    limit = small.history_limit
    cases = [
        example_inputs(model, each) for each in ([5], [5, 3], [0, 1, 5, 8, 2, 4, 0], [0], [limit])
    ]
    unknown = example_inputs(model, [5, 5])
    unknown["history"][:, ::2] = 0
    for name in ("attributes", "context"):
        if name in unknown:
            unknown[name][:] = 0
    for inputs in (*cases, unknown):
        with torch.no_grad():
            wanted = viewer_vectors(model, table, inputs).numpy()
        given = served.run(inputs)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, wanted, atol=1e-4)


UNSEEN = ["new-cat", "new-dog", "blank"]


def test_unseen_videos_get_the_vectors_that_training_gives_them(
    cats_and_dogs: RetrievalData,
    small: RetrievalConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    towers = random_towers(cats_and_dogs, small)
    # So few places that unseen videos need a step towards the viewers.
    monkeypatch.setattr(embeddings, "PLACES", 2)
    monkeypatch.setattr(embeddings, "EXPOSURE", 20)
    monkeypatch.setattr(embeddings, "MAX_SHARE", 0.9)
    fill_unseen(towers, cats_and_dogs)
    path = tmp_path / "model.onnx"
    export_video_tower(ContentTower(towers), path)
    rows = [cats_and_dogs.video_ids.index(name) for name in UNSEEN]
    inputs = {"content": cats_and_dogs.content[rows].astype(np.int64)}
    found = np.asarray(onnxruntime.InferenceSession(path).run(["video_vectors"], inputs)[0])
    vectors, content = np.split(found, 2, axis=1)
    with torch.no_grad():
        wanted = towers.video_vectors().numpy()[rows]
        parts = torch.nn.functional.normalize(
            towers.video_tower.content_vectors(towers.video_tower.content)
        ).numpy()[rows]
    assert vectors == pytest.approx(wanted, abs=1e-5)
    assert content == pytest.approx(parts, abs=1e-5)
    assert not found[2].any()
    assert towers.video_tower.unseen_step.any()


def test_a_catalogue_that_was_watched_whole_has_a_tower_too(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = TwoTower(ring, small).eval()
    fill_unseen(model, ring)
    tower = ContentTower(model, np.float16)
    export_video_tower(tower, tmp_path / "model.onnx")
    one = np.zeros((1, CONTENT_LIMIT), np.int64)
    one[0, 0] = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = np.asarray(session.run(["video_vectors"], {"content": one})[0])
    assert found == pytest.approx(tower(torch.from_numpy(one)).numpy(), abs=1e-4)
    assert found.any()


def test_a_data_set_of_ids_alone_exports(small: RetrievalConfig, tmp_path: Path) -> None:
    data = towers_data({"a": ["x", "y"]}, ["x", "y"])
    export_viewer_tower(TwoTower(data, small), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()
