"""Export the ranker to ONNX, and check that ONNX Runtime's outputs equal PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vireo.server.arrays import Float32Array
from vireo.server.features.ranking_inputs import (
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT
from vireo.server.inference.model import Model
from vireo.server.inference.signature import ranker_signature
from vireo.server.releases.layout import GOLDEN_TOLERANCE
from vireo.training.onnx_export import Inputs, check_outputs, export
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
    """Write the ranker to `path` in the form of ServedRanker; raise ExportError if it differs."""
    model.eval()
    example = example_inputs(model, batch=3, candidates=5, history=4)
    axes = {name: AXES[name] for name in AXES if name in example}
    export(ServedRanker(model), example, axes, "scores", path, OPSET)
    check_ranker(model, path)


def check_ranker(model: Ranker, path: Path) -> None:
    """Raise ExportError if the outputs on `export_cases` aren't those of `model`."""
    schema = model.schema
    signature = ranker_signature(
        schema.vector_size,
        len(schema.context_features),
        len(schema.match_features),
        len(schema.tasks),
    )
    served = Model(path, signature)
    for case, inputs in export_cases(model):
        check_outputs(path, case, served.run(inputs), torch_scores(model, inputs), GOLDEN_TOLERANCE)


def export_cases(model: Ranker) -> Iterator[tuple[str, Inputs]]:
    """Yield inputs of every kind that occurs in serving, each with a name."""
    vector_size = model.schema.vector_size
    for batch in (1, 2, 7):
        yield f"a batch of {batch}", example_inputs(model, batch, 50, 12)
    empty = example_inputs(model, 1, 20, 1)
    empty["history_vectors"] = np.zeros((1, 1, vector_size), np.float32)
    empty["history_lengths"] = np.zeros(1, np.int64)
    yield "an empty history", empty
    full = example_inputs(model, 2, 20, RANKER_HISTORY)
    full["history_lengths"] = np.full(2, RANKER_HISTORY, np.int64)
    yield "a full history", full
    unseen = empty | {
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
        "viewer_features": np.array([[0.0, 0.5]], np.float32),
    }
    yield "an unseen viewer", unseen
    yield "one candidate", example_inputs(model, 1, 1, 3)
    if model.schema.context_features:
        unknown = example_inputs(model, 2, 20, 3)
        unknown["context"][:] = 0
        yield "an unknown context", unknown


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
