from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders.faulty_s3 import faulty_s3
from tests.ops.release.conftest import Publish, Vireo
from vireo.server.releases.channels import Change, Channel
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration


def promote(store: ReleaseStore, channel: str, *release_ids: str) -> Channel:
    for release_id in release_ids:
        store.change_channel(channel, Change(release_id), store.read_channel(channel))
    found = store.read_channel(channel)
    assert found is not None
    return found


def planned(vireo: Vireo, *arguments: str, act: str = "--dry-run") -> Any:
    done = vireo("gc", "--json", act, *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_current_and_recent_releases_of_channels_are_kept_and_others_removed(
    store: ReleaseStore, publish: Publish, vireo: Vireo
) -> None:
    for release_id in "abcdef":
        publish(release_id)
    promote(store, "production", "a", "b", "c", "d")
    promote(store, "canary", "e")

    assert planned(vireo, "--grace-hours", "0")["kept"]["a"] == "production named it recently"
    plan = planned(vireo, "--grace-hours", "0", "--history", "2")
    assert plan["kept"] == {
        "c": "production would roll back to it",
        "d": "production names it",
        "e": "canary names it",
    }
    assert [each["releaseId"] for each in plan["garbage"]] == ["a", "b", "f"]
    assert {each["kind"] for each in plan["garbage"]} == {"release"}
    assert all(each["size"] > 1000 for each in plan["garbage"])
    assert plan["removed"] == []
    assert len(store.list()) == 6, "it was a dry run"

    asked = vireo("gc", "--grace-hours", "0", "--history", "2")
    assert asked.exit_code == 1, "nobody answers"
    assert "remove 3 of them, " in str(asked.exception)
    assert len(store.list()) == 6
    done = vireo("gc", "--grace-hours", "0", "--history", "2", "--yes")
    assert done.exit_code == 0, done.output
    assert {each.release_id for each in store.list()} == {"c", "d", "e"}
    assert not store.bucket.objects("releases/a/", recursive=True)
    assert planned(vireo, "--grace-hours", "0", "--history", "2")["garbage"] == []


def test_recently_written_releases_are_kept(publish: Publish, vireo: Vireo) -> None:
    publish("a")
    plan = planned(vireo, act="--yes")
    assert plan["kept"] == {"a": "written recently"}
    assert plan["removed"] == []


def test_remains_of_an_interrupted_upload_are_removed(
    store: ReleaseStore, publish: Publish, vireo: Vireo
) -> None:
    publish("half")
    store.bucket.remove("releases/half/manifest.json")
    [leftover] = planned(vireo, "--grace-hours", "0", act="--yes")["garbage"]
    assert (leftover["releaseId"], leftover["kind"]) == ("half", "leftover")
    assert not store.bucket.objects("releases/", recursive=True)


def test_a_release_that_cannot_be_removed_is_reported_and_others_are_removed(
    store: ReleaseStore,
    s3: S3Settings,
    publish: Publish,
    vireo: Vireo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for release_id in "abc":
        publish(release_id)
    with faulty_s3(s3) as proxy:
        proxy.fault, proxy.only = "refuses", f"DELETE /{s3.bucket}/releases/b/".encode()
        monkeypatch.setenv("VIREO_S3_ENDPOINT", proxy.settings.endpoint)
        done = vireo("gc", "--grace-hours", "0", "--yes")
        asked = vireo("gc", "--grace-hours", "0", "--yes", "--json")
    assert done.exit_code == 1
    assert "removed 2 of 3" in done.stdout
    assert "b: failed: S3 at" in done.stderr
    assert [each.release_id for each in store.list()] == ["b"]
    assert asked.exit_code == 1
    assert list(json.loads(asked.stdout)["failed"]) == ["b"]
