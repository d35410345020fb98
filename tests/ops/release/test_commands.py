from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ops.release.conftest import Publish, Vireo
from vireo.server.releases.channels import Change
from vireo.server.releases.promotion import NothingToReturnToError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration


def test_one_command_rolls_back_and_the_history_records_it(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    publish("a")
    publish("b")
    store.change_channel("production", Change("a"), None)
    store.change_channel("production", Change("b"), store.read_channel("production"))

    done = vireo("rollback", "--reason", "[red]too slow", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "channel": "production",
        "releaseId": "a",
        "previous": "b",
        "revision": 3,
        "share": 0.0,
        "gone": [],
    }
    nothing = vireo("rollback")
    assert isinstance(nothing.exception, NothingToReturnToError)
    records = json.loads(vireo("history", "--json").stdout)
    assert [(each["revision"], each["action"], each["releaseId"]) for each in records] == [
        (3, "rollback", "a"),
        (2, "promote", "b"),
        (1, "promote", "a"),
    ]
    assert (records[0]["updatedBy"], records[0]["reason"]) == ("ada@here", "[red]too slow")
    assert len(json.loads(vireo("history", "--changes", "1", "--json").stdout)) == 1
    table = vireo("history").stdout
    assert "[red]too slow" in table
    assert "rollback" in table
    assert "channel trial was never set" in vireo("history", "--channel", "trial").stderr


def test_list_shows_every_release_and_problems_of_invalid_ones(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    assert "publish one with: vireo release publish" in vireo("list").stderr
    publish("good")
    publish("unfit")
    store.change_channel("production", Change("good"), None)
    assert store.bucket.swap("releases/odd/manifest.json", b"{}", None)
    done = vireo("list", "--json")
    assert done.exit_code == 0, done.output
    listed = {each["releaseId"]: each for each in json.loads(done.stdout)}
    assert set(listed) == {"good", "unfit", "odd"}
    assert listed["good"]["channels"] == ["production"]
    assert listed["good"]["dataset"] == "tiny"
    assert "format_version is None" in listed["odd"]["problem"]
    assert "format_version is None" in vireo("list").stdout
    assert "good" in vireo("show", "good").stdout


def test_show_lists_the_attributes_that_a_release_can_be_filtered_by(
    publish: Publish, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    publish("new")
    assert "creator, language, tag; numbers: age_rating, duration, published" in (
        vireo("show", "new").stdout
    )
    declared = {
        "labels": ["creator", "language", "tag"],
        "numbers": ["age_rating", "duration", "published"],
    }
    assert json.loads(vireo("show", "new", "--json").stdout)["attributes"] == declared


def test_status_shows_channels_without_a_running_stack(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    publish("a")
    store.change_channel("production", Change("a", updated_by="bob@there"), None)
    done = vireo("status")
    assert done.exit_code == 0, done.output
    assert "bob@there" in done.stdout
    assert "no stack runs on" in done.stderr
    document = json.loads(vireo("status", "--json").stdout)
    assert document["channels"]["production"]["releaseId"] == "a"
    assert document["pods"] is None


def test_a_missing_store_is_reported(
    vireo: Vireo, s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_S3_ENDPOINT", "127.0.0.1:1")
    assert "can't be reached" in str(vireo("list").exception)
