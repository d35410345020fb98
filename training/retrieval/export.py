"""Export the viewer tower to ONNX, and check that ONNX Runtime's outputs equal PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper
from torch import Tensor, nn

from vireo.server.features.context import sizes
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS
from vireo.server.inference.signature import VIDEOS
from vireo.server.releases import layout
from vireo.training.onnx_export import ExportError, Inputs, check_outputs, export
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.towers import readable, viewer_vectors

TOLERANCE = 1e-4
"""Maximum absolute difference of an export's outputs from PyTorch's."""
AXES = {
    "history": ("batch", "length"),
    "gaps": ("batch", "length"),
    "asked_gap": ("batch",),
    "lengths": ("batch",),
    "attributes": ("batch",),
    "context": ("batch",),
}
"""Inputs, in order, and their dynamic axes; `context` only of towers that read it."""
OUTPUT = "viewer_vector"


class _ViewerTowerWithVideos(nn.Module):
    """The viewer tower with the videos' vectors as a buffer."""

    videos: Tensor

    def __init__(self, model: TwoTower, size: int) -> None:
        super().__init__()
        self.viewer_tower = model.viewer_tower
        # Two placeholder rows: the number of videos isn't part of the graph.
        self.register_buffer("videos", torch.zeros(2, size))

    def forward(
        self,
        history: Tensor,
        gaps: Tensor,
        asked_gap: Tensor,
        lengths: Tensor,
        attributes: Tensor,
        context: Tensor | None = None,
    ) -> Tensor:
        known = (history > 0)[:, :, None]
        watched = F.embedding((history - 1).clamp(min=0), self.videos) * known
        return self.viewer_tower.request_vectors(
            watched, gaps, asked_gap, lengths, attributes, context
        )


def export_viewer_tower(
    model: TwoTower, path: Path, precision: type[np.float32 | np.float16] = np.float32
) -> None:
    """Write the viewer tower to `path`, and the videos' vectors that it reads beside it.

    Inputs are those of `tower_inputs`; the output is `viewer_vector` float32[b, d]. The vectors,
    [n, d] of this precision, are an .npy file named as in `layout.VIDEO_VECTORS`: pods map it into
    memory, shared by all processes.

    Raises:
        ExportError: ONNX Runtime's outputs differ from PyTorch's; the files are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model.eval()
    vectors = path.with_name(Path(layout.VIDEO_VECTORS).name)
    with torch.no_grad():
        table = model.video_vectors().numpy().astype(precision)
    np.save(vectors, table)
    tower = _ViewerTowerWithVideos(model, table.shape[1])
    example = trial_batches(model)["a batch of two"]
    axes = {name: AXES[name] for name in AXES if name in example}
    export(tower, example, axes, OUTPUT, path)
    _refer(path, vectors, table)
    try:
        check_export(model, path)
    except ExportError:
        path.unlink()
        vectors.unlink()
        raise


def _refer(path: Path, vectors: Path, table: npt.NDArray[Any]) -> None:
    """Make the model at `path` read its videos from the .npy file `vectors` beside it."""
    model = onnx.load(str(path))
    [videos] = [part for part in model.graph.initializer if part.name == VIDEOS]
    videos.ClearField("raw_data")
    videos.dims[:] = table.shape
    videos.data_location = TensorProto.EXTERNAL
    offset = vectors.stat().st_size - table.nbytes
    for key, value in (("location", vectors.name), ("offset", offset), ("length", table.nbytes)):
        videos.external_data.add(key=key, value=str(value))
    if table.dtype == np.float16:
        videos.data_type = TensorProto.FLOAT16
        _widen(model.graph)
    onnx.save(model, str(path))


def _widen(graph: onnx.GraphProto) -> None:
    [place] = [at for at, node in enumerate(graph.node) if VIDEOS in node.input]
    found = graph.node[place].output[0]
    graph.node[place].output[0] = f"{found}_half"
    cast = helper.make_node("Cast", [f"{found}_half"], [found], to=TensorProto.FLOAT)
    graph.node.insert(place + 1, cast)


def check_export(model: TwoTower, path: Path) -> None:
    """Raise ExportError if ONNX Runtime's outputs on `trial_batches` aren't those of `model`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    vectors = np.load(path.with_name(Path(layout.VIDEO_VECTORS).name))
    table = readable(torch.from_numpy(vectors.astype(np.float32)))
    for name, inputs in trial_batches(model).items():
        (answer,) = session.run([OUTPUT], inputs)
        with torch.no_grad():
            expected = viewer_vectors(model, table, inputs).numpy()
        check_outputs(path, name, np.asarray(answer, np.float32), expected, TOLERANCE)


def trial_batches(model: TwoTower) -> dict[str, Inputs]:
    """Return the inputs that an export is checked on, by the name of the case."""
    limit = model.config.history_limit
    short = min(5, limit)
    batches = {
        "a batch of one": _trial(model, [short]),
        "a batch of two": _trial(model, [short, max(1, short - 2)]),
        "a batch of seven": _trial(model, [0, 1, short, limit, 2, limit // 2, 0]),
        "an empty history": _trial(model, [0]),
        "a full history": _trial(model, [limit]),
        "unknown videos": _trial(model, [short, short]),
        "an unseen viewer": _trial(model, [short]),
    }
    batches["unknown videos"]["history"][:, ::2] = 0
    batches["an unseen viewer"]["attributes"][:] = 0
    if model.context:
        batches["an unknown context"] = _trial(model, [short, 0])
        batches["an unknown context"]["context"][:] = 0
    return batches


def _trial(model: TwoTower, lengths: list[int]) -> Inputs:
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
