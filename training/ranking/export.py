"""Export the ranker to ONNX, and check that ONNX Runtime's outputs equal PyTorch's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.features.ranking_inputs import (
    MATCH_FEATURES,
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from server.features.tower_inputs import ATTRIBUTE_LIMIT
from server.inference.model import Model
from server.inference.signature import ranker_signature
from server.releases.layout import GOLDEN_TOLERANCE
from training.ranking.model import Ranker
from training.ranking.served import ServedRanker
from training.retrieval.export import ExportError

Inputs = dict[str, npt.NDArray[Any]]
OPSET = 20
INPUTS = (
    "candidate_vectors",
    "candidate_features",
    "retrieval_features",
    "match_features",
    "history_vectors",
    "history_lengths",
    "viewer_features",
    "attributes",
)


def export_ranker(model: Ranker, vector_size: int, path: Path) -> None:
    """Write the ranker to `path` in the form of ServedRanker.

    Batch size, number of candidates and history length are dynamic.

    Raises:
        ExportError: an output differs from PyTorch's by more than GOLDEN_TOLERANCE.
    """
    model.eval()
    example = example_inputs(model, vector_size, batch=3, candidates=5, history=4)
    batch, candidates, history = (torch.export.Dim(name) for name in ("b", "n", "h"))
    axes = {
        "candidate_vectors": {0: batch, 1: candidates},
        "candidate_features": {0: batch, 1: candidates},
        "retrieval_features": {0: batch, 1: candidates},
        "match_features": {0: batch, 1: candidates},
        "history_vectors": {0: batch, 1: history},
        "history_lengths": {0: batch},
        "viewer_features": {0: batch},
        "attributes": {0: batch},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter's own deprecations.
        torch.onnx.export(
            ServedRanker(model).eval(),
            tuple(torch.from_numpy(example[name]) for name in INPUTS),
            str(path),
            input_names=list(INPUTS),
            output_names=["scores"],
            opset_version=OPSET,
            dynamic_shapes=tuple(axes[name] for name in INPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    check_ranker(model, vector_size, path)


def check_ranker(model: Ranker, vector_size: int, path: Path) -> None:
    """Compare the model at `path` with `model` on `export_cases`.

    Raises:
        ExportError: shapes differ, or an output differs by more than GOLDEN_TOLERANCE.
    """
    served = Model(path, ranker_signature(vector_size))
    for case, inputs in export_cases(model, vector_size):
        wanted, given = torch_scores(model, inputs), served.run(inputs)
        if given.shape != wanted.shape:
            raise ExportError(
                f"the exported ranker returns {given.shape}, not {wanted.shape}, for {case}; "
                "check the model's dynamic axes"
            )
        difference = float(np.abs(given - wanted).max())
        # Negated so that NaN fails.
        if not difference <= GOLDEN_TOLERANCE:
            raise ExportError(
                f"the exported ranker differs from PyTorch by {difference:.2g} for {case} "
                f"(maximum {GOLDEN_TOLERANCE:g}); check the model's operators"
            )


def export_cases(model: Ranker, vector_size: int) -> Iterator[tuple[str, Inputs]]:
    """Yield inputs of every kind that occurs in serving, each with a name."""
    for batch in (1, 2, 7):
        yield f"a batch of {batch}", example_inputs(model, vector_size, batch, 50, 12)
    empty = example_inputs(model, vector_size, 1, 20, 1)
    empty["history_vectors"] = np.zeros((1, 1, vector_size), np.float32)
    empty["history_lengths"] = np.zeros(1, np.int64)
    yield "an empty history", empty
    full = example_inputs(model, vector_size, 2, 20, RANKER_HISTORY)
    full["history_lengths"] = np.full(2, RANKER_HISTORY, np.int64)
    yield "a full history", full
    unseen = empty | {
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
        "viewer_features": np.array([[0.0, 0.5]], np.float32),
    }
    yield "an unseen viewer", unseen
    yield "one candidate", example_inputs(model, vector_size, 1, 1, 3)


def example_inputs(
    model: Ranker, vector_size: int, batch: int, candidates: int, history: int
) -> Inputs:
    """Return reproducible random inputs of the given sizes, with histories of all lengths."""
    random = np.random.default_rng([batch, candidates, history])
    vocabulary = model.attribute.num_embeddings
    retrieval = random.normal(size=(batch, candidates, len(RETRIEVAL_FEATURES)))
    co_watch, first_source = (
        RETRIEVAL_FEATURES.index(name) for name in ("co_watch", "from_two_tower")
    )
    retrieval[..., co_watch] = np.abs(retrieval[..., co_watch])
    retrieval[..., first_source:] = retrieval[..., first_source:] > 0
    return {
        "candidate_vectors": random.normal(size=(batch, candidates, vector_size)).astype("f4"),
        "candidate_features": random.random((batch, candidates, len(VIDEO_FEATURES)), "f4"),
        "retrieval_features": retrieval.astype("f4"),
        "match_features": random.uniform(-1, 1, (batch, candidates, len(MATCH_FEATURES))).astype(
            "f4"
        ),
        "history_vectors": random.normal(size=(batch, history, vector_size)).astype("f4"),
        "history_lengths": np.arange(batch, dtype=np.int64)[::-1] * history // max(batch - 1, 1),
        "viewer_features": random.random((batch, len(VIEWER_FEATURES)), "f4"),
        "attributes": random.integers(0, vocabulary, (batch, ATTRIBUTE_LIMIT)),
    }


def torch_scores(model: Ranker, inputs: Inputs) -> npt.NDArray[np.float32]:
    """Return PyTorch's outputs without dropout, float32[b, n, 2]."""
    model.eval()
    with torch.no_grad():
        scores = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    result: npt.NDArray[np.float32] = scores.numpy()
    return result
