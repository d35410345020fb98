"""Ways in which a release can be bad: each damages the folder of a good one.

`lies` damage what was described before, so that digests differ; `described` ones are described
again in the manifest, so that only loading them fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.builders.releases import build_release, described_again, poison_model
from tests.builders.s3 import client_of
from vireo.server.releases import layout
from vireo.server.releases.manifest import MANIFEST_NAME
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.tables import write_texts


@dataclass(frozen=True)
class BadRelease:
    """One way to be bad."""

    name: str
    damage: Callable[[Path], object]
    reason: str
    """What a pod that needs the damaged part says, as a regular expression."""
    described: bool = False
    """Whether the manifest describes the damaged files: the digests are all right."""
    pod: str = "ranking"
    """What needs the damaged part, a kind of pod for example."""

    def build(self, folder: Path, release_id: str, seed: int = 0) -> Path:
        """A release that is bad in this way."""
        build_release(folder, release_id=release_id, seed=seed)
        self.damage(folder)
        if self.described:
            described_again(folder)
        return folder


def _content(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(change((folder / path).read_bytes()))


def _manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / MANIFEST_NAME
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def _narrow_index(folder: Path) -> None:
    index = faiss.IndexFlatIP(4)
    index.add(np.zeros((40, 4), np.float32))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def _another_input(folder: Path) -> None:
    path = folder / layout.RANKER
    model = onnx.load(str(path))
    kind = helper.make_tensor_value_info("mood", TensorProto.FLOAT, ["b"])
    model.graph.input.append(kind)
    onnx.save(model, str(path))


def _golden_of_another(folder: Path) -> None:
    other = build_release(folder.with_name("other"), seed=1)
    (other / layout.GOLDEN_RANKER).replace(folder / layout.GOLDEN_RANKER)


def _value(path: str, place: Any, value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = np.load(folder / path)
        table[place] = value
        np.save(folder / path, table)

    return damage


def _unsorted_labels(folder: Path) -> None:
    count = len(np.load(folder / layout.LABEL_OFFSETS)) - 1
    write_texts(folder / layout.LABELS, [f"tag={count - place:06}" for place in range(count)])


def _ids_beyond_the_table(folder: Path) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(8))
    index.add_with_ids(np.load(folder / layout.VIDEO_VECTORS), np.arange(100, 140))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


BAD_RELEASES = (
    BadRelease(
        "flipped_byte",
        _content(layout.VIDEO_VECTORS, lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        r"viewer_tower/1/vectors\.npy of release .* \(another SHA-256\)",
    ),
    BadRelease(
        "missing_file",
        lambda folder: (folder / layout.GOLDEN_RANKER).unlink(),
        r"golden/ranker\.npz isn't in bucket",
    ),
    BadRelease(
        "unknown_format",
        _manifest(lambda document: document.update(format_version=99)),
        "format_version is 99, this build serves",
    ),
    BadRelease(
        "other_features",
        _manifest(
            lambda document: document["feature_schema"]["constants"].update({"co_watch.history": 7})
        ),
        r"feature_schema\.constants\[co_watch\.history\] is 7\.0, this build has 20\b",
    ),
    BadRelease(
        "other_dimension",
        _narrow_index,
        r"index\.faiss: has vectors of 4 dimensions, feature_schema\.vector_size .* is 8",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "no_model",
        _content(layout.RANKER, lambda _: b"not a model"),
        r"model\.onnx: ONNX Runtime can't load the model",
        described=True,
    ),
    BadRelease(
        "another_input",
        _another_input,
        r"model\.onnx: the model reads input 'mood', which this build doesn't feed",
        described=True,
    ),
    BadRelease(
        "nan_in_the_weights",
        lambda folder: poison_model(folder, layout.RANKER, "video"),
        r"ranker\.npz: replay failed: ranker gave a value that isn't finite; its weights",
        described=True,
    ),
    BadRelease(
        "golden_mismatch",
        _golden_of_another,
        r"ranker\.npz: replay differs from the recorded outputs",
        described=True,
    ),
    BadRelease(
        "ids_beyond_the_table",
        _ids_beyond_the_table,
        r"index\.faiss: names row 139, the release has rows 0 to 39",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "nan_in_the_vectors",
        _value(layout.VIDEO_VECTORS, (3, 1), np.nan),
        r"viewer_tower/1/vectors\.npy: has values that aren't finite",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "nan_in_the_video_tower",
        lambda folder: poison_model(folder, layout.VIDEO_TOWER, "table"),
        r"golden/video_tower\.npz: replay failed",
        described=True,
        pod="video tower",
    ),
    BadRelease(
        "unsorted_labels",
        _unsorted_labels,
        r"videos/labels\.bin: 'tag=.*' must not follow",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "label_of_no_video",
        _value(layout.LABEL_ROWS, 3, 40),
        r"videos/label_rows\.npy: names row 40",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "a_file_that_isnt_listed",
        _manifest(lambda document: document["files"].pop(layout.POPULAR_IDS)),
        r"popular\.json isn't in the manifest; gateway pods need it",
        pod="gateway",
    ),
    BadRelease(
        "no_list_of_videos",
        _content(layout.POPULAR_IDS, lambda _: b"{}"),
        r"as a gateway pod: popular\.json",
        described=True,
        pod="gateway",
    ),
    BadRelease(
        "list_of_no_attributes",
        _content(layout.POPULAR_ATTRIBUTES, lambda _: b"[]"),
        r"as a gateway pod: popular_attributes\.json: has 0 videos",
        described=True,
        pod="gateway",
    ),
)


def upload(settings: S3Settings, folder: Path, release_id: str) -> None:
    """Put a release's files into the store as they are: `publish` would refuse a bad one."""
    client = client_of(settings)
    for file in folder.rglob("*"):
        if file.is_file():
            name = f"releases/{release_id}/{file.relative_to(folder).as_posix()}"
            client.fput_object(settings.bucket, name, str(file))


def bad_name(bad: BadRelease) -> str:
    """Its name, for pytest."""
    return bad.name
