"""ONNX Runtime's outputs of both towers are PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.context import NAMES, sizes
from vireo.server.models.model import Model
from vireo.server.models.signature import VIDEOS, tower_signature
from vireo.training.data.context import watch_column
from vireo.training.retrieval import unseen
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import (
    content_tower,
    example_inputs,
    export_video_tower,
    export_viewer_tower,
)
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors
from vireo.training.retrieval.unseen import fill_unseen

pytestmark = pytest.mark.slow


def with_random_weights(data: RetrievalData, config: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(data, config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.video_tower.token_embedding.weight[0] = 0
    return model.eval()


@pytest.fixture(scope="module")
def of_context(ring_tables: tuple[pd.DataFrame, ...]) -> RetrievalData:
    watches, *tables = ring_tables
    random = np.random.default_rng(3)
    columns = {
        watch_column(name): random.integers(0, size, len(watches)).astype(np.int16)
        for name, size in zip(NAMES, sizes(NAMES), strict=True)
    }
    return RetrievalData.build(watches.assign(**columns), *tables)


@pytest.mark.parametrize("precision", [np.float32, np.float16])
@pytest.mark.parametrize("kind", ["ring", "of_context"])
def test_every_kind_of_request_has_the_vector_that_pytorch_gives_it(
    kind: str,
    precision: type[np.float32 | np.float16],
    small: RetrievalConfig,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = with_random_weights(request.getfixturevalue(kind), small)
    path = tmp_path / "viewer_tower" / "1" / "model.onnx"
    export_viewer_tower(model, path, precision)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "vectors.npy"]
    vectors = np.load(path.with_name("vectors.npy"))
    assert vectors.dtype == precision
    table = readable(torch.from_numpy(vectors.astype(np.float32)))
    served = Model(path, tower_signature(16, len(model.context)), {VIDEOS: vectors})
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


def test_the_videos_lie_beside_the_model_and_not_in_it(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = with_random_weights(ring, small)
    export_viewer_tower(model, tmp_path / "model.onnx")
    vectors = np.load(tmp_path / "vectors.npy")
    assert np.array_equal(vectors, model.video_vectors().detach().numpy())
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    [videos] = [part for part in graph.initializer if part.name == "videos"]
    assert not videos.raw_data
    assert {entry.key: entry.value for entry in videos.external_data}["location"] == "vectors.npy"


UNSEEN = ["new-cat", "new-dog", "new-nothing"]


def test_unseen_videos_get_the_vectors_that_training_gives_them(
    small: RetrievalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the viewers watch videos of cats, half of dogs; three videos are unseen."""
    known = [f"{kind}-{number}" for number in range(20) for kind in ("cat", "dog")]
    walks = {
        f"viewer-{viewer:02}": known[viewer % 2 :: 2][viewer % 5 : viewer % 5 + 9]
        for viewer in range(60)
    }
    ids = [*known, *UNSEEN]
    tags = [
        [] if "nothing" in name else ["cat" if "cat" in name else "dog", name[-1]] for name in ids
    ]
    data = RetrievalData.build(watches_frame(walks), videos_frame(ids, tags), viewers_frame({}))
    towers = with_random_weights(data, small)
    # So few places that unseen videos need a step towards the viewers.
    monkeypatch.setattr(unseen, "PLACES", 2)
    monkeypatch.setattr(unseen, "EXPOSURE", 20)
    monkeypatch.setattr(unseen, "MAX_SHARE", 0.9)
    fill_unseen(towers, data)
    path = tmp_path / "model.onnx"
    export_video_tower(content_tower(towers), path)
    rows = [data.video_ids.index(name) for name in UNSEEN]
    inputs = {"content": data.content[rows].astype(np.int64)}
    found = np.asarray(onnxruntime.InferenceSession(path).run(["video_vectors"], inputs)[0])
    vectors, content = np.split(found, 2, axis=1)
    with torch.no_grad():
        wanted = towers.video_vectors().numpy()[rows]
        parts = torch.nn.functional.normalize(towers.content_vectors()).numpy()[rows]
    assert vectors == pytest.approx(wanted, abs=1e-5)
    assert content == pytest.approx(parts, abs=1e-5)
    assert not found[2].any()
    assert towers.video_tower.unseen_step.any()


def test_a_catalogue_that_was_watched_whole_has_a_tower_too(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = TwoTower(ring, small).eval()
    fill_unseen(model, ring)
    tower = content_tower(model, np.float16)
    export_video_tower(tower, tmp_path / "model.onnx")
    one = np.zeros((1, CONTENT_LIMIT), np.int64)
    one[0, 0] = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = np.asarray(session.run(["video_vectors"], {"content": one})[0])
    assert found == pytest.approx(tower(torch.from_numpy(one)).numpy(), abs=1e-4)
    assert found.any()


def test_a_data_set_of_ids_alone_exports(small: RetrievalConfig, tmp_path: Path) -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y"]}), videos_frame(["x", "y"]), viewers_frame({})
    )
    export_viewer_tower(TwoTower(data, small), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()
