"""`vireo release verify` on releases that are bad in every way that a store can hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.builders.releases import build_release, poison_model
from tests.builders.s3 import client_of
from tests.ops.release.conftest import Publish, Vireo
from vireo.server.releases import layout
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, describe_files
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.texts import write_texts
from vireo.server.releases.verify import verify_release

pytestmark = pytest.mark.integration


def one_line(result: Any) -> str:
    """What was printed, whatever the width of the terminal."""
    return " ".join(result.stdout.split())


def test_a_sound_release_is_reported_with_the_bytes_read(publish: Publish, vireo: Vireo) -> None:
    folder = publish("good")
    manifest = Manifest.read(folder)
    done = vireo("verify", "good")
    assert done.exit_code == 0, done.output
    expected = f"sound good: {len(manifest.files)} files, 0.0 MB, loads as every kind of pod"
    assert expected in one_line(done)
    document = json.loads(vireo("verify", "good", "--json").stdout)
    assert document["ok"]
    [found] = document["releases"]
    assert (found["problems"], found["files"]) == ([], len(manifest.files))
    assert found["size"] == sum(entry.size for entry in manifest.files.values())


def truncated(bucket: Bucket) -> None:
    bucket.put(layout.VIDEO_VECTORS, bucket.get(layout.VIDEO_VECTORS)[:-7])


def flipped_byte(bucket: Bucket) -> None:
    body = bytearray(bucket.get(layout.RANKER))
    body[len(body) // 2] ^= 1
    bucket.put(layout.RANKER, bytes(body))


def missing(bucket: Bucket) -> None:
    bucket.remove(layout.VIDEO_TITLES)


def lying_size(bucket: Bucket) -> None:
    manifest = json.loads(bucket.get(MANIFEST_NAME))
    manifest["files"][layout.VIDEO_IDS]["size"] += 1
    bucket.put(MANIFEST_NAME, json.dumps(manifest).encode())


def unknown_version(bucket: Bucket) -> None:
    manifest = json.loads(bucket.get(MANIFEST_NAME))
    manifest["format_version"] = 99
    bucket.put(MANIFEST_NAME, json.dumps(manifest).encode())


def no_manifest(bucket: Bucket) -> None:
    bucket.remove(MANIFEST_NAME)


def path_out_of_the_folder(bucket: Bucket) -> None:
    manifest = json.loads(bucket.get(MANIFEST_NAME))
    manifest["files"]["../escaped"] = manifest["files"][layout.VIDEO_IDS]
    bucket.put(MANIFEST_NAME, json.dumps(manifest).encode())


def unlisted_file(bucket: Bucket) -> None:
    manifest = json.loads(bucket.get(MANIFEST_NAME))
    del manifest["files"][layout.POPULAR_IDS]
    bucket.put(MANIFEST_NAME, json.dumps(manifest).encode())


class Bucket:
    """The objects of one release, to be damaged."""

    def __init__(self, s3: S3Settings, release_id: str) -> None:
        self._client, self._bucket, self._id = client_of(s3), s3.bucket, release_id

    def get(self, path: str) -> bytes:
        response = self._client.get_object(self._bucket, self._name(path))
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def put(self, path: str, body: bytes) -> None:
        self._client.put_object(self._bucket, self._name(path), io.BytesIO(body), len(body))

    def remove(self, path: str) -> None:
        self._client.remove_object(self._bucket, self._name(path))

    def _name(self, path: str) -> str:
        return f"releases/{self._id}/{path}"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncated, "bad: viewer_tower/1/vectors.npy has 1,401 bytes, the manifest lists 1,408"),
        (flipped_byte, "bad: ranker/1/model.onnx doesn't have the SHA-256 in the manifest"),
        (missing, "bad: videos/titles.bin is missing from the store"),
        (lying_size, "bad: videos/ids.bin has"),
        (unknown_version, "format_version is 99, this build serves"),
        (no_manifest, "bad: release bad isn't in bucket"),
        (path_out_of_the_folder, "manifest field files.../escaped"),
        (unlisted_file, "bad: popular.json isn't in the manifest; gateway pods need it"),
    ],
)
def test_damage_in_the_store_is_reported(
    publish: Publish,
    vireo: Vireo,
    s3: S3Settings,
    damage: Callable[[Bucket], None],
    expected: str,
) -> None:
    publish("bad")
    damage(Bucket(s3, "bad"))
    done = vireo("verify", "bad")
    assert done.exit_code == 1
    assert expected in one_line(done)
    assert "sound" not in done.stdout
    assert not json.loads(vireo("verify", "bad", "--json").stdout)["ok"]


def test_an_object_is_read_no_further_than_its_manifest_says(
    publish: Publish, store: ReleaseStore, s3: S3Settings, tmp_path: Path
) -> None:
    entry = Manifest.read(publish("bad")).files[layout.VIDEO_VECTORS]
    Bucket(s3, "bad").put(layout.VIDEO_VECTORS, b"x" * 5_000_000)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = verify_release(store, "bad", {}, scratch)
    expected = (
        f"{layout.VIDEO_VECTORS} has more than the {entry.size:,} bytes that the manifest lists"
    )
    assert found.problems == (expected,)
    assert (scratch / layout.VIDEO_VECTORS).stat().st_size <= entry.size


def other_dimension(folder: Path) -> None:
    index = faiss.IndexFlatIP(5)
    index.add(np.zeros((40, 5), np.float32))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def ids_beyond_the_table(folder: Path) -> None:
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, np.arange(len(vectors)) + 7)
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def no_onnx(folder: Path) -> None:
    (folder / layout.RANKER).write_bytes(b"\x08\x08 this is no model")


def other_input(folder: Path) -> None:
    path = str(folder / layout.VIEWER_TOWER)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["past" if name == "history" else name for name in node.input]
    [history] = [value for value in model.graph.input if value.name == "history"]
    history.name = "past"
    onnx.save(model, path)


def other_input_type(folder: Path) -> None:
    path = str(folder / layout.VIEWER_TOWER)
    model = onnx.load(path)
    [history] = [value for value in model.graph.input if value.name == "history"]
    history.type.tensor_type.elem_type = TensorProto.INT32
    onnx.save(model, path)


def nan_weights(folder: Path) -> None:
    poison_model(folder, layout.RANKER, "video")


def nan_vectors(folder: Path) -> None:
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    vectors[3, 1] = np.nan
    np.save(folder / layout.VIDEO_VECTORS, vectors)


def nan_video_tower(folder: Path) -> None:
    poison_model(folder, layout.VIDEO_TOWER, "table")


def golden_mismatch(folder: Path) -> None:
    path = folder / layout.GOLDEN_RANKER
    with np.load(path) as golden:
        arrays = dict(golden)
    arrays["output/scores"] = arrays["output/scores"] + np.float32(0.001)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def no_list(folder: Path) -> None:
    (folder / layout.POPULAR_IDS).write_text("{}")


def unsorted_labels(folder: Path) -> None:
    count = len(np.load(folder / layout.LABEL_OFFSETS)) - 1
    write_texts(folder / layout.LABELS, [f"tag={count - place:06}" for place in range(count)])


def label_of_no_video(folder: Path) -> None:
    rows = np.load(folder / layout.LABEL_ROWS)
    rows[3] = 40
    np.save(folder / layout.LABEL_ROWS, rows)


def no_numbers(folder: Path) -> None:
    (folder / layout.NUMBERS).unlink()


def popular_without_attributes(folder: Path) -> None:
    (folder / layout.POPULAR_ATTRIBUTES).write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (other_dimension, "as a candidate pod: videos/index.faiss: "),
        (ids_beyond_the_table, "as a candidate pod: videos/index.faiss: "),
        (no_onnx, "as a ranking pod: ranker/1/model.onnx: ONNX Runtime can't load the model"),
        (other_input, "as a candidate pod: "),
        (other_input_type, "as a candidate pod: "),
        (nan_weights, "as a ranking pod: golden/ranker.npz: replay failed"),
        (
            nan_vectors,
            "as a candidate pod: viewer_tower/1/vectors.npy: has values that aren't finite",
        ),
        (nan_video_tower, "as a candidate pod: golden/video_tower.npz: replay failed"),
        (golden_mismatch, "as a ranking pod: golden/ranker.npz: replay differs"),
        (no_list, "as a gateway pod: popular.json"),
        (unsorted_labels, "as a candidate pod: videos/labels.bin: 'tag="),
        (label_of_no_video, "as a candidate pod: videos/label_rows.npy: names row 40"),
        (no_numbers, "videos/numbers.npy isn't in the manifest; candidate pods need it"),
        (popular_without_attributes, "as a gateway pod: popular_attributes.json: has 0 videos"),
    ],
)
def test_a_release_that_was_published_damaged_is_reported(
    store: ReleaseStore,
    vireo: Vireo,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    expected: str,
) -> None:
    publish_spoiled(store, tmp_path, spoil)
    done = vireo("verify", "bad")
    assert done.exit_code == 1
    assert expected in one_line(done)


def publish_spoiled(
    store: ReleaseStore, folder: Path, spoil: Callable[[Path], None], architecture: str = ""
) -> None:
    """Publish a release whose manifest describes what was spoiled, so that digests agree."""
    build_release(folder, release_id="bad")
    spoil(folder)
    update = {"files": describe_files(folder), "architecture": architecture}
    Manifest.read(folder).model_copy(update=update).write(folder)
    store.publish(folder)


def test_all_problems_are_reported_at_once(publish: Publish, vireo: Vireo, s3: S3Settings) -> None:
    publish("bad")
    for damage in (truncated, flipped_byte, missing):
        damage(Bucket(s3, "bad"))
    [found] = json.loads(vireo("verify", "bad", "--json").stdout)["releases"]
    assert len(found["problems"]) == 3
    assert any("not loaded as a ranking pod" in note for note in found["notes"])


def test_goldens_of_another_processor_are_reported_without_failing_the_release(
    store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    publish_spoiled(store, tmp_path, golden_mismatch, architecture="quantum9000")
    done = vireo("verify", "bad")
    assert done.exit_code == 0, done.output
    assert "goldens were made on quantum9000" in one_line(done)


def other_answers(folder: Path) -> None:
    path = folder / layout.GOLDEN_RANKER
    with np.load(path) as golden:
        arrays = dict(golden)
    arrays["output/scores"] = 1 - arrays["output/scores"]
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_another_processor_does_not_excuse_other_answers(
    store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    publish_spoiled(store, tmp_path, other_answers, architecture="quantum9000")
    assert vireo("verify", "bad").exit_code == 1


def test_without_an_id_the_releases_of_all_channels_are_verified(
    publish: Publish, store: ReleaseStore, vireo: Vireo, s3: S3Settings
) -> None:
    assert "no channel names a release" in vireo("verify").stdout
    for name in ("production", "canary"):
        publish(name)
        store.change_channel(name, Change(name), None)
    done = vireo("verify")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("sound") == 2

    Bucket(s3, "canary").remove(MANIFEST_NAME)
    broken = vireo("verify")
    assert broken.exit_code == 1
    assert "wrong channel canary names canary, which isn't in the store" in one_line(broken)
    assert "sound production" in one_line(broken)
    assert vireo("verify", "--channel", "production").exit_code == 0
    assert vireo("verify", "--channel", "canary").exit_code == 1
    unset = vireo("verify", "--channel", "shadow")
    assert unset.exit_code == 1
    assert "channel shadow was never set" in unset.stdout


def test_files_missing_from_the_manifest_are_noted(
    publish: Publish, vireo: Vireo, s3: S3Settings
) -> None:
    publish("good")
    Bucket(s3, "good").put("notes.txt", b"remember the milk")
    done = vireo("verify", "good")
    assert done.exit_code == 0
    assert "notes.txt isn't in the manifest; no pod reads it" in one_line(done)
