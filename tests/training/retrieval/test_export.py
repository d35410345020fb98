from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.server.features.tower_inputs import tower_inputs
from vireo.training.onnx_export import ExportError
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import check_export, export_viewer_tower, trial_batches
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.towers import readable, viewer_vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(
    ring: RetrievalData, small: RetrievalConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TwoTower, Path]:
    torch.manual_seed(0)
    model = TwoTower(ring, small)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("export") / "viewer_tower" / "1" / "model.onnx"
    export_viewer_tower(model, path)
    return model.eval(), path


def test_the_videos_lie_beside_the_model_and_not_in_it(exported: tuple[TwoTower, Path]) -> None:
    model, path = exported
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["model.onnx", "vectors.npy"]
    vectors = np.load(path.with_name("vectors.npy"))
    assert np.array_equal(vectors, model.video_vectors().detach().numpy())
    [videos] = [
        part
        for part in onnx.load(path, load_external_data=False).graph.initializer
        if part.name == "videos"
    ]
    assert not videos.raw_data
    assert {entry.key: entry.value for entry in videos.external_data}["location"] == "vectors.npy"


def test_serving_inputs_go_in_as_they_are(
    exported: tuple[TwoTower, Path], ring: RetrievalData
) -> None:
    model, path = exported
    viewers = [ring.viewer_features(viewer) for viewer in range(11)]
    inputs = tower_inputs(viewers, ring.video_rows(), ring.vocabulary, model.config.history_limit)

    vectors = np.asarray(onnxruntime.InferenceSession(path).run(["viewer_vector"], inputs)[0])

    table = readable(model.video_vectors())
    expected = viewer_vectors(model, table, inputs).detach().numpy()
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-4


def test_every_case_of_serving_is_tried(exported: tuple[TwoTower, Path]) -> None:
    limit = exported[0].config.history_limit
    batches = trial_batches(exported[0])

    sizes = {len(batch["lengths"]) for batch in batches.values()}
    assert {1, 2, 7} <= sizes
    assert batches["an empty history"]["lengths"].tolist() == [0]
    assert batches["a full history"]["history"].shape == (1, limit)
    assert (batches["a full history"]["history"] > 0).all()
    assert not batches["an unseen viewer"]["attributes"].any()
    unknown = batches["unknown videos"]
    assert (unknown["history"][0, : unknown["lengths"][0]] == 0).any()


def test_a_file_that_answers_otherwise_fails_the_export(
    exported: tuple[TwoTower, Path], tmp_path: Path
) -> None:
    model, path = exported
    broken = onnx.load(path, load_external_data=False)
    weights = next(
        tensor for tensor in broken.graph.initializer if tensor.name.endswith("norm.weight")
    )
    values = numpy_helper.to_array(weights) * np.float32(1.01)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(broken, tmp_path / "model.onnx")
    shutil.copy(path.with_name("vectors.npy"), tmp_path)

    with pytest.raises(ExportError, match=r"differ by .* for a batch of one"):
        check_export(model, tmp_path / "model.onnx")


def test_a_failed_check_leaves_no_file(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = TwoTower(ring, small)
    with torch.no_grad():
        model.viewer_tower.norm.bias.fill_(float("nan"))

    with pytest.raises(ExportError, match="differ by nan"):
        export_viewer_tower(model, tmp_path / "model.onnx")

    assert list(tmp_path.iterdir()) == []


def test_a_data_set_of_ids_alone_exports(small: RetrievalConfig, tmp_path: Path) -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y"]}), videos_frame(["x", "y"]), viewers_frame({})
    )

    export_viewer_tower(TwoTower(data, small), tmp_path / "model.onnx")

    assert (tmp_path / "model.onnx").exists()


def test_half_precision_is_of_the_videos_alone(
    exported: tuple[TwoTower, Path], ring: RetrievalData, tmp_path: Path
) -> None:
    model, _ = exported
    path = tmp_path / "model.onnx"
    export_viewer_tower(model, path, np.float16)
    vectors = np.load(path.with_name("vectors.npy"))
    assert vectors.dtype == np.float16
    check_export(model, path)
    viewers = [ring.viewer_features(viewer) for viewer in range(5)]
    inputs = tower_inputs(viewers, ring.video_rows(), ring.vocabulary, model.config.history_limit)
    options = onnxruntime.SessionOptions()
    halves = onnxruntime.OrtValue.ortvalue_from_numpy(vectors)
    options.add_initializer("videos", halves)
    session = onnxruntime.InferenceSession(path, options)
    answer = np.asarray(session.run(["viewer_vector"], inputs)[0])
    table = readable(model.video_vectors())
    expected = viewer_vectors(model, table, inputs).detach().numpy()
    assert answer.dtype == np.float32
    assert np.abs(answer - expected).max() < 0.02
