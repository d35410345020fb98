"""Ways in which a release can be bad, one for each check that a pod makes; see `damage`, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from tests.builders.damage import Damage, changed, content, index, missing
from tests.builders.releases import build_release, described_again, poison_model
from tests.builders.s3 import client_of
from vireo.server.releases import layout
from vireo.server.releases.manifest import MANIFEST_NAME
from vireo.server.releases.s3 import S3Settings


@dataclass(frozen=True)
class BadRelease:
    """One way to be bad."""

    name: str
    damage: Damage
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


def _manifest(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / MANIFEST_NAME
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def _golden_of_another(folder: Path) -> None:
    other = build_release(folder.with_name("other"), seed=1)
    (other / layout.GOLDEN_RANKER).replace(folder / layout.GOLDEN_RANKER)


GOLDEN_MISMATCH = BadRelease(
    "golden_mismatch",
    _golden_of_another,
    r"ranker\.npz: replay differs from the recorded outputs",
    described=True,
)
BAD_RELEASES = (
    BadRelease(
        "other_digest",
        changed(layout.VIDEO_VECTORS, np.negative),
        r"viewer_tower/1/vectors\.npy of release .* \(another SHA-256\)",
    ),
    BadRelease(
        "missing_file", missing(layout.GOLDEN_RANKER), r"golden/ranker\.npz isn't in bucket"
    ),
    BadRelease(
        "unknown_format",
        _manifest(lambda document: document.update(format_version=99)),
        "format_version is 99, this build serves",
    ),
    BadRelease(
        "other_dimension",
        index(faiss.IndexFlatIP(4), np.zeros((40, 4), np.float32)),
        r"index\.faiss: has vectors of 4 dimensions, feature_schema\.vector_size .* is 8",
        described=True,
        pod="candidate",
    ),
    BadRelease(
        "no_model",
        content(layout.RANKER, "not a model"),
        r"model\.onnx: ONNX Runtime can't load the model",
        described=True,
    ),
    GOLDEN_MISMATCH,
    BadRelease(
        "nan_in_the_video_tower",
        lambda folder: poison_model(folder, layout.VIDEO_TOWER, "table"),
        r"golden/video_tower\.npz: replay failed",
        described=True,
        pod="video tower",
    ),
    BadRelease(
        "a_file_that_isnt_listed",
        _manifest(lambda document: document["files"].pop(layout.POPULAR_IDS)),
        r"popular\.json isn't in the manifest; gateway pods need it",
        pod="gateway",
    ),
    BadRelease(
        "no_list_of_videos",
        content(layout.POPULAR_IDS, "{}"),
        r"as a gateway pod: popular\.json",
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
