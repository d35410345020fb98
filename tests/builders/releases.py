"""Builds a tiny but complete release folder in milliseconds: real ONNX, real index, goldens.

Its models are small formulas in ONNX, and its goldens come from the same formulas in NumPy,
so that a replay compares two computations, as it does for a trained release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builders.attributes import DECLARED, labels_of, numbers_of, write_attributes
from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.keys import unique_video_keys, video_keys
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.releases import layout
from vireo.server.releases.manifest import (
    FeatureSchema,
    Manifest,
    Quotas,
    ScoreWeights,
    describe_files,
)
from vireo.server.releases.tables import write_texts
from vireo.server.signals import TASKS
from vireo.training.onnx_export import write_triton_config

VECTOR_SIZE = 8
HISTORY_LIMIT = 20
CO_WATCH_LIMIT = 6
EASE_LIMIT = 4
FRESH_LIMIT = 8
CONTENT_SIZE = 3
"""Dimensions of the content vectors that vary; the others are 0."""
CREATORS = 5
CONTENT_VOCABULARY = {"tag=cat": 1, "tag=dog": 2, "tag=fish": 3}
"""Row r has the token 1 + r % 3, and the creator of the name `creator-{r % CREATORS}`."""
VOCABULARY = {"occupation=artist": 1, "occupation=writer": 2}

USUAL_TASKS = tuple(task.name for task in TASKS if not task.optional)
"""Tasks of every release."""
SCHEMA = FeatureSchema.ours(HISTORY_LIMIT, VECTOR_SIZE).model_copy(update={"tasks": USUAL_TASKS})

Arrays = Mapping[str, npt.NDArray[Any]]
Float32Array = npt.NDArray[np.float32]


def video_ids(count: int) -> list[str]:
    """Ids of a tiny release's videos by row: "video-0", "video-1" and so on."""
    return [f"video-{row}" for row in range(count)]


def build_release(
    folder: Path,
    *,
    release_id: str = "tiny-1",
    videos: int = 40,
    seed: int = 0,
    weights: ScoreWeights | None = None,
    quotas: Quotas | None = None,
    tasks: tuple[str, ...] = USUAL_TASKS,
) -> Path:
    """Write a complete release of `videos` videos below `folder`, which it returns.

    Row r follows row r - 1 most in the co-watch table; EASE expects row r - 1 most after row r
    and speaks against row r - EASE_LIMIT. Popularity falls with the row, and the last
    FRESH_LIMIT rows are fresh. Attributes are those of `tests.builders.attributes`.
    """
    random = np.random.default_rng(seed)
    for part in (
        layout.VIEWER_TOWER,
        layout.VIDEO_TOWER,
        layout.RANKER,
        layout.VIDEO_KEYS,
        layout.GOLDEN_RANKER,
    ):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
    _write_videos(folder, random, videos)
    _write_viewer_tower(folder, random)
    _write_ranker(folder, random, len(tasks))
    _write_video_tower(folder, np.random.default_rng(seed + 1))
    Manifest(
        release_id=release_id,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        dataset="tiny",
        code_commit="0" * 40,
        data_fingerprint="0" * 64,
        holdout="last",
        feature_schema=SCHEMA.model_copy(update={"tasks": tasks}),
        quotas=quotas or Quotas(),
        score_weights=weights or ScoreWeights({"watch": 1.0, "like": 0.5}),
        metrics={},
        files=describe_files(folder),
    ).write(folder)
    return folder


def described_again(folder: Path, **fields: object) -> Path:
    """Describe the files of a release as they are now, with other fields of its manifest."""
    update = {"files": describe_files(folder), **fields}
    Manifest.read(folder).model_copy(update=update).write(folder)
    return folder


def _write_videos(folder: Path, random: np.random.Generator, count: int) -> None:
    ids = video_ids(count)
    vectors = random.normal(size=(count, VECTOR_SIZE)).astype(np.float32)
    steps = np.arange(1, CO_WATCH_LIMIT + 1)
    followers = np.arange(count)[:, None] + steps
    rows = np.where(followers < count, followers, -1).astype(np.int32)
    weights = np.where(rows >= 0, 1 / steps, 0).astype(np.float32)
    before = np.arange(count)[:, None] - np.arange(1, EASE_LIMIT + 1)
    strengths = np.where(before >= 0, [0.8, 0.4, 0.2, -0.1], 0).astype(np.float32)
    content = random.normal(size=(count, CONTENT_SIZE))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    content = np.pad(content, ((0, 0), (0, VECTOR_SIZE - CONTENT_SIZE)))
    tokens = np.zeros((count, CONTENT_LIMIT), np.uint16)
    tokens[:, 0] = 1 + np.arange(count) % len(CONTENT_VOCABULARY)
    creators = video_keys([f"creator-{row % CREATORS}" for row in range(count)])
    tables: Arrays = {
        layout.EASE_ROWS: np.maximum(before, 0).astype(np.int32),
        layout.EASE_WEIGHTS: strengths,
        layout.FRESH_ROWS: np.arange(count)[-FRESH_LIMIT:],
        layout.CONTENT_VECTORS: content.astype(np.float32),
        layout.CONTENT_IDS: tokens,
        layout.CREATORS: creators,
        layout.VIDEO_KEYS: unique_video_keys(ids),
        layout.VIDEO_VECTORS: vectors,
        layout.VIDEO_FEATURE_TABLE: random.random((count, len(VIDEO_FEATURES)), np.float32),
        layout.CO_WATCH_ROWS: rows,
        layout.CO_WATCH_WEIGHTS: weights,
        layout.POPULARITY: np.arange(count, 0, -1).astype(np.float32),
    }
    for path, table in tables.items():
        np.save(folder / path, table)
    texts = {
        layout.POPULAR_IDS: ids[:1000],
        layout.VOCABULARY: VOCABULARY,
        layout.CONTENT_VOCABULARY: CONTENT_VOCABULARY,
    }
    for path, text in texts.items():
        (folder / path).write_text(json.dumps(text))
    write_texts(folder / layout.VIDEO_IDS, ids)
    write_texts(folder / layout.VIDEO_TITLES, [f"Title of {video_id}" for video_id in ids])
    index = faiss.IndexFlatIP(VECTOR_SIZE)
    index.add(vectors)
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))
    labels = [labels_of(row, CREATORS) for row in range(count)]
    numbers = [numbers_of(row) for row in range(count)]
    write_attributes(folder, DECLARED, labels, numbers, range(min(1000, count)))


def _write_viewer_tower(folder: Path, random: np.random.Generator) -> None:
    """viewer_vector = mean vector of the history + sum of the attributes' vectors + a bias."""
    videos = np.load(folder / layout.VIDEO_VECTORS)
    video_table = np.concatenate([np.zeros((1, VECTOR_SIZE), np.float32), videos])
    attribute_table = random.normal(size=(len(VOCABULARY) + 1, VECTOR_SIZE)).astype(np.float32)
    attribute_table[0] = 0
    bias = random.normal(size=VECTOR_SIZE).astype(np.float32)
    save_model(
        folder / layout.VIEWER_TOWER,
        inputs={
            "history": (TensorProto.INT64, ["b", "l"]),
            "gaps": (TensorProto.INT64, ["b", "l"]),
            "asked_gap": (TensorProto.INT64, ["b"]),
            "lengths": (TensorProto.INT64, ["b"]),
            "attributes": (TensorProto.INT64, ["b", ATTRIBUTE_LIMIT]),
        },
        outputs={"viewer_vector": ["b", VECTOR_SIZE]},
        nodes=[
            helper.make_node("Gather", ["video_table", "history"], ["watched"]),
            helper.make_node("ReduceSum", ["watched", "axis"], ["watched_sum"], keepdims=0),
            helper.make_node("Max", ["lengths", "one"], ["divisor_int"]),
            helper.make_node("Cast", ["divisor_int"], ["divisor"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["divisor", "axis"], ["divisor_column"]),
            helper.make_node("Div", ["watched_sum", "divisor_column"], ["mean"]),
            helper.make_node("Gather", ["attribute_table", "attributes"], ["profile"]),
            helper.make_node("ReduceSum", ["profile", "axis"], ["profile_sum"], keepdims=0),
            helper.make_node("Add", ["mean", "profile_sum"], ["unbiased"]),
            helper.make_node("Add", ["unbiased", "bias"], ["viewer_vector"]),
        ],
        constants={
            "video_table": video_table,
            "attribute_table": attribute_table,
            "bias": bias,
            "axis": np.array([1]),
            "one": np.array([1]),
        },
    )
    inputs = {
        "history": np.array([[1, 2, 3], [4, 0, 0], [0, 0, 0]]),
        "gaps": np.zeros((3, 3), np.int64),
        "asked_gap": np.zeros(3, np.int64),
        "lengths": np.array([3, 1, 0]),
        "attributes": np.eye(3, ATTRIBUTE_LIMIT, dtype=np.int64),
    }
    mean = video_table[inputs["history"]].sum(1) / np.maximum(inputs["lengths"], 1)[:, None]
    vector = mean + attribute_table[inputs["attributes"]].sum(1) + bias
    save_golden(folder / layout.GOLDEN_VIEWER_TOWER, inputs, {"viewer_vector": vector})


def _write_video_tower(folder: Path, random: np.random.Generator) -> None:
    """video_vectors = sum of the tokens' vectors; those of content have length 1."""
    table = random.normal(size=(len(CONTENT_VOCABULARY) + 1, 2 * VECTOR_SIZE)).astype(np.float32)
    table[0] = 0
    table[1:, VECTOR_SIZE:] /= np.linalg.norm(table[1:, VECTOR_SIZE:], axis=1, keepdims=True)
    save_model(
        folder / layout.VIDEO_TOWER,
        inputs={"content": (TensorProto.INT64, ["b", CONTENT_LIMIT])},
        outputs={"video_vectors": ["b", 2 * VECTOR_SIZE]},
        nodes=[
            helper.make_node("Gather", ["table", "content"], ["each"]),
            helper.make_node("ReduceSum", ["each", "axis"], ["video_vectors"], keepdims=0),
        ],
        constants={"table": table, "axis": np.array([1])},
    )
    content = np.eye(4, CONTENT_LIMIT, dtype=np.int64) * np.arange(4)[:, None]
    golden = folder / layout.GOLDEN_VIDEO_TOWER
    save_golden(golden, {"content": content}, {"video_vectors": table[content].sum(1)})


def _write_ranker(folder: Path, random: np.random.Generator, tasks: int) -> None:
    """scores = sigmoid of a linear map of the candidate's dense features."""
    retrieval, video, match = (
        random.normal(size=(len(names), tasks)).astype(np.float32)
        for names in (RETRIEVAL_FEATURES, VIDEO_FEATURES, MATCH_FEATURES)
    )
    save_model(
        folder / layout.RANKER,
        inputs={
            "candidate_vectors": (TensorProto.FLOAT, ["b", "n", VECTOR_SIZE]),
            "candidate_features": (TensorProto.FLOAT, ["b", "n", len(VIDEO_FEATURES)]),
            "retrieval_features": (TensorProto.FLOAT, ["b", "n", len(RETRIEVAL_FEATURES)]),
            "match_features": (TensorProto.FLOAT, ["b", "n", len(MATCH_FEATURES)]),
            "history_vectors": (TensorProto.FLOAT, ["b", "h", VECTOR_SIZE]),
            "history_lengths": (TensorProto.INT64, ["b"]),
            "viewer_features": (TensorProto.FLOAT, ["b", len(VIEWER_FEATURES)]),
            "attributes": (TensorProto.INT64, ["b", ATTRIBUTE_LIMIT]),
        },
        outputs={"scores": ["b", "n", tasks]},
        nodes=[
            helper.make_node("MatMul", ["retrieval_features", "retrieval"], ["a"]),
            helper.make_node("MatMul", ["candidate_features", "video"], ["b_"]),
            helper.make_node("MatMul", ["match_features", "match"], ["c"]),
            helper.make_node("Add", ["a", "b_"], ["sum"]),
            helper.make_node("Add", ["sum", "c"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["scores"]),
        ],
        constants={"retrieval": retrieval, "video": video, "match": match},
    )
    count = 5
    inputs: Arrays = {
        "candidate_vectors": random.random((1, count, VECTOR_SIZE), np.float32),
        "candidate_features": random.random((1, count, len(VIDEO_FEATURES)), np.float32),
        "retrieval_features": random.random((1, count, len(RETRIEVAL_FEATURES)), np.float32),
        "match_features": random.random((1, count, len(MATCH_FEATURES)), np.float32),
        "history_vectors": random.random((1, 2, VECTOR_SIZE), np.float32),
        "history_lengths": np.array([2]),
        "viewer_features": random.random((1, len(VIEWER_FEATURES)), np.float32),
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
    }
    parts = {"retrieval_features": retrieval, "candidate_features": video, "match_features": match}
    logits = sum(inputs[name] @ weights for name, weights in parts.items())
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": scores})


def poison_model(folder: Path, model_path: str, constant: str) -> None:
    """Make a model of a release answer NaN, by one of its constants."""
    path = folder / model_path
    model = onnx.load(str(path))
    [place] = [part for part in model.graph.initializer if part.name == constant]
    values = numpy_helper.to_array(place)
    place.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), constant))
    onnx.save(model, str(path))


def save_golden(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write golden requests as `layout` has them."""
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    arrays |= {f"output/{name}": array for name, array in outputs.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def save_model(
    path: Path,
    *,
    inputs: Mapping[str, tuple[int, Sequence[str | int]]],
    outputs: Mapping[str, Sequence[str | int]],
    nodes: Sequence[onnx.NodeProto],
    constants: Arrays,
) -> None:
    """Write an ONNX model of the given nodes; outputs are float32."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    write_triton_config(path)
