"""Export of the towers to ONNX.

The viewer tower reads its videos' vectors from a file beside the model. The video tower is for
videos that training has never seen: it makes vectors of content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper
from torch import Tensor, nn

from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.models.signature import VIDEOS, tower_signature, video_tower_signature
from vireo.server.releases import layout
from vireo.server.releases.manifest import FeatureSchema
from vireo.training.onnx_export import export
from vireo.training.retrieval.content import TOKENS
from vireo.training.retrieval.model import TwoTower


class _ViewerTowerWithVideos(nn.Module):
    """The viewer tower with the videos' vectors as a buffer."""

    videos: Tensor

    def __init__(self, model: TwoTower, size: int) -> None:
        super().__init__()
        self.viewer_tower = model.viewer_tower
        # Two placeholder rows: the number of videos isn't part of the graph.
        self.register_buffer("videos", torch.zeros(2, size))

    def forward(self, history: Tensor, *others: Tensor) -> Tensor:
        known = (history > 0)[:, :, None]
        watched = F.embedding((history - 1).clamp(min=0), self.videos) * known
        return self.viewer_tower.request_vectors(watched, *others)


def export_viewer_tower(
    model: TwoTower, path: Path, precision: type[np.float32 | np.float16] = np.float32
) -> None:
    """Write the viewer tower to `path`, and the videos' vectors that it reads beside it.

    Inputs are those of `tower_inputs`; the output is `viewer_vector` float32[b, d]. The vectors,
    [n, d] of this precision, are an .npy file named as in `layout.VIDEO_VECTORS`: pods map it into
    memory, shared by all processes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model.eval()
    vectors = path.with_name(Path(layout.VIDEO_VECTORS).name)
    with torch.no_grad():
        table = model.video_vectors().numpy().astype(precision)
    np.save(vectors, table)
    schema = FeatureSchema.ours(model.config.history_limit, table.shape[1], model.context)
    export(_ViewerTowerWithVideos(model, table.shape[1]), tower_signature(schema), path)
    _refer(path, vectors, table)


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


class ContentTower(nn.Module):
    """Vectors of unwatched videos by the rule of `vireo.training.retrieval.embeddings`."""

    tokens: Tensor
    weights: Tensor
    effects: Tensor
    constant: Tensor

    @torch.no_grad()
    def __init__(
        self, model: TwoTower, precision: type[np.float32 | np.float16] = np.float32
    ) -> None:
        """Take the rule of a trained model, its large tables in this precision."""
        super().__init__()
        dtype = torch.float16 if precision is np.float16 else torch.float32
        tower = model.video_tower
        tokens = tower.token_projection(tower.token_embedding.weight)
        size = tokens.shape[1]
        weights, effects, mean = np.zeros(1), np.zeros((1, size)), np.zeros(size)
        if (ridge := tower.ridge) is not None:
            weights, effects, mean = ridge.weights, ridge.effects, ridge.mean
        self.register_buffer("tokens", tokens.to(dtype))
        self.register_buffer("weights", torch.from_numpy(weights).float())
        self.register_buffer("effects", torch.from_numpy(effects).to(dtype))
        self.register_buffer("constant", torch.from_numpy(mean).float() + tower.unseen_step)
        self.eval()

    def forward(self, content: Tensor) -> Tensor:
        """Return each video's vector, then its content vector of length 1, float32[b, 2d].

        Both are 0 for a video without content.

        Args:
            content: token ids, 0-padded, int64[b, CONTENT_LIMIT].
        """
        known = (content > 0).float()
        count = known.sum(1, keepdim=True).clamp(min=1)
        part = F.embedding(content, self.tokens).float().sum(1) / count
        frequent = content * (content < len(self.weights)) * (content <= TOKENS)
        weights = F.embedding(frequent, self.weights[:, None]) * (frequent > 0)[:, :, None]
        effects = (F.embedding(frequent, self.effects).float() * weights).sum(1)
        length = weights.square().sum(1).sqrt().clamp(min=1e-12)
        guess = self.constant + effects / length
        return torch.cat([part + guess * known.amax(1, keepdim=True), F.normalize(part)], 1)


def export_video_tower(tower: ContentTower, path: Path) -> None:
    """Write the tower to `path`.

    The input is `content` int64[b, CONTENT_LIMIT], the output `video_vectors` float32[b, 2d].
    """
    schema = FeatureSchema.ours(HISTORY_LIMIT, tower.tokens.shape[1])
    export(tower, video_tower_signature(schema), path)
