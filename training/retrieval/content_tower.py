"""The video tower for videos that training has never seen: content to vectors, as an ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vireo.server.arrays import Int64Array
from vireo.server.features.content import CONTENT_LIMIT
from vireo.training.onnx_export import ExportError, check_outputs, export
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import TOLERANCE
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.unseen import TOKENS

OUTPUT = "video_vectors"
_GOLDENS = 64


class ContentTower(nn.Module):
    """Vectors of unwatched videos by the rule of `vireo.training.retrieval.unseen`."""

    tokens: Tensor
    weights: Tensor
    effects: Tensor
    constant: Tensor

    def __init__(self, model: TwoTower, dtype: torch.dtype) -> None:
        super().__init__()
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


@torch.no_grad()
def content_tower(
    model: TwoTower, precision: type[np.float32 | np.float16] = np.float32
) -> ContentTower:
    """Return the tower of a trained model, its large tables in this precision."""
    dtype = torch.float16 if precision is np.float16 else torch.float32
    return ContentTower(model, dtype).eval()


def export_video_tower(tower: ContentTower, path: Path) -> None:
    """Write the tower to `path`; raise ExportError if ONNX Runtime's outputs aren't PyTorch's.

    The input is `content` int64[b, CONTENT_LIMIT], the output `video_vectors` float32[b, 2d].
    """
    cases = {f"a batch of {size}": {"content": _trial(tower, size)} for size in (2, 1, 7)}
    export(tower, cases["a batch of 2"], {"content": ("batch",)}, OUTPUT, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    try:
        for case, inputs in cases.items():
            (given,) = session.run([OUTPUT], inputs)
            wanted = video_outputs(tower, inputs["content"])
            check_outputs(path, case, np.asarray(given, np.float32), wanted, TOLERANCE)
    except ExportError:
        path.unlink()
        raise


def golden_videos(data: RetrievalData) -> Int64Array:
    """Return the content of some videos and of one without any, int64[g, CONTENT_LIMIT]."""
    chosen = np.linspace(0, data.video_count - 1, min(_GOLDENS, data.video_count)).astype(int)
    empty = np.zeros((1, CONTENT_LIMIT), np.int64)
    return np.concatenate([data.content[chosen].astype(np.int64), empty])


@torch.no_grad()
def video_outputs(tower: ContentTower, content: Int64Array) -> np.ndarray:
    """Return PyTorch's outputs, float32[b, 2d]."""
    outputs: np.ndarray = tower(torch.from_numpy(content)).numpy()
    return outputs


def _trial(tower: ContentTower, size: int) -> Int64Array:
    """Return random bags; the last is empty if there are several."""
    tokens = len(tower.tokens)
    random = np.random.default_rng(size)
    content: Int64Array = random.integers(0, tokens, (size, CONTENT_LIMIT))
    content[:, CONTENT_LIMIT // 2 :] = 0
    content[1:][-1:] = 0
    return content
