"""Export of the ranker to ONNX, and example inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vireo.server.arrays import Float32Array
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.training.onnx_export import Inputs, export
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.served import ServedRanker

OPSET = 20
AXES = {
    "candidate_vectors": ("b", "n"),
    "candidate_features": ("b", "n"),
    "retrieval_features": ("b", "n"),
    "match_features": ("b", "n"),
    "history_vectors": ("b", "h"),
    "history_lengths": ("b",),
    "viewer_features": ("b",),
    "attributes": ("b",),
    "context": ("b",),
}
"""Inputs, in order, and their dynamic axes: viewers, candidates and history; `context` only of
rankers that read it."""


def export_ranker(model: Ranker, path: Path) -> None:
    """Write the ranker to `path` in the form of ServedRanker."""
    model.eval()
    example = example_inputs(model, batch=3, candidates=5, history=4)
    axes = {name: AXES[name] for name in AXES if name in example}
    export(ServedRanker(model), example, axes, "scores", path, OPSET)


def example_inputs(model: Ranker, batch: int, candidates: int, history: int) -> Inputs:
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


def torch_scores(model: Ranker, inputs: Inputs) -> Float32Array:
    """Return PyTorch's outputs without dropout: probabilities of TASKS, float32[b, n, t]."""
    model.eval()
    with torch.no_grad():
        scores = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    result: Float32Array = scores.numpy()
    return result
