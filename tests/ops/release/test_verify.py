"""`vireo release verify` on releases that are bad in every way that a store can hold."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from tests.builders.bad_releases import BAD_RELEASES, BadRelease, upload
from tests.builders.releases import build_release
from tests.builders.s3 import client_of
from tests.ops.release.conftest import Publish, Vireo
from vireo.server.releases import layout
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import Manifest, describe_files
from vireo.server.releases.store import ReleaseStore, manifest_place, release_object

pytestmark = pytest.mark.integration


def one_line(result: Result) -> str:
    """What was printed, whatever the width of the terminal."""
    return " ".join(result.stdout.split())


def put(store: ReleaseStore, path: str, body: bytes) -> None:
    """Write a file of the release `bad`, as the store itself never would."""
    name = release_object("bad", path)
    client_of(store.settings).put_object(store.bucket.name, name, io.BytesIO(body), len(body))


def test_a_sound_release_is_reported_with_the_bytes_read(
    publish: Publish, vireo: Vireo, store: ReleaseStore
) -> None:
    manifest = Manifest.read(publish("bad"))
    put(store, "notes.txt", b"remember the milk")
    done = vireo("verify", "bad")
    assert done.exit_code == 0, done.output
    expected = f"sound bad: {len(manifest.files)} files, 0.0 MB, loads as every kind of pod"
    assert expected in one_line(done)
    assert "notes.txt isn't in the manifest; no pod reads it" in one_line(done)
    document = json.loads(vireo("verify", "bad", "--json").stdout)
    assert document["ok"]
    [found] = document["releases"]
    assert (found["problems"], found["files"]) == ([], len(manifest.files))
    assert found["size"] == sum(entry.size for entry in manifest.files.values())


@pytest.mark.parametrize("bad", BAD_RELEASES, ids=lambda bad: bad.name)
def test_a_bad_release_is_reported(
    store: ReleaseStore, vireo: Vireo, tmp_path: Path, bad: BadRelease
) -> None:
    store.bucket.make()
    upload(store.settings, bad.build(tmp_path / "bad", "bad"), "bad")
    done = vireo("verify", "bad")
    assert done.exit_code == 1
    assert re.search(bad.reason, one_line(done))
    assert "sound" not in done.stdout
    assert not json.loads(vireo("verify", "bad", "--json").stdout)["ok"]


def test_every_problem_is_reported_and_a_damaged_pod_not_tried(
    publish: Publish, vireo: Vireo, store: ReleaseStore
) -> None:
    publish("bad")
    put(store, layout.VIDEO_VECTORS, b"x" * 5_000_000)
    put(store, layout.RANKER, b"x")
    store.bucket.remove(release_object("bad", layout.VIDEO_TITLES))
    [found] = json.loads(vireo("verify", "bad", "--json").stdout)["releases"]
    assert len(found["problems"]) == 3
    assert any("not loaded as a ranking pod" in note for note in found["notes"])
    store.bucket.remove(manifest_place("bad"))
    assert "bad: release bad isn't in bucket" in one_line(vireo("verify", "bad"))


@pytest.mark.parametrize(("difference", "code"), [(0.001, 0), (0.5, 1)])
def test_another_processor_excuses_small_differences_from_goldens_and_no_others(
    store: ReleaseStore, vireo: Vireo, tmp_path: Path, difference: float, code: int
) -> None:
    folder = build_release(tmp_path, release_id="bad")
    with np.load(folder / layout.GOLDEN_RANKER) as golden:
        arrays = dict(golden)
    arrays["output/scores"] = arrays["output/scores"] + np.float32(difference)
    np.savez(folder / layout.GOLDEN_RANKER, **arrays)
    update = {"files": describe_files(folder), "architecture": "quantum9000"}
    Manifest.read(folder).model_copy(update=update).write(folder)
    store.publish(folder)
    done = vireo("verify", "bad")
    assert done.exit_code == code, done.output
    assert ("goldens were made on quantum9000" in one_line(done)) == (code == 0)


def test_without_an_id_the_releases_of_all_channels_are_verified(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    assert "no channel names a release" in vireo("verify").stdout
    for name in ("production", "canary"):
        publish(name)
        store.change_channel(name, Change(name), None)
    done = vireo("verify")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("sound") == 2

    store.bucket.remove(manifest_place("canary"))
    broken = vireo("verify")
    assert broken.exit_code == 1
    assert "wrong channel canary names canary, which isn't in the store" in one_line(broken)
    assert "sound production" in one_line(broken)
    assert vireo("verify", "--channel", "production").exit_code == 0
    assert vireo("verify", "--channel", "canary").exit_code == 1
    unset = vireo("verify", "--channel", "trial")
    assert unset.exit_code == 1
    assert "channel trial was never set" in unset.stdout
