"""`vireo archive`, and what reads what it has fetched, with a real S3 server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import Result

from tests.builders.archiving import logged, put, slate
from tests.builders.commands import vireo
from tests.builders.event_batches import event, message
from tests.builders.s3 import running_s3
from vireo.ops.cli.archive import archived
from vireo.ops.stack.s3 import open_store
from vireo.server.consumer.archive_files import fetch
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import S3Settings

HOUR = 3600.0
NOW = time.time()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(scope="module")
def bucket(s3: S3Settings) -> Bucket:
    """Slates of now, of 5 hours and of 3 days ago, and events of now, of two partitions."""
    made = Bucket(s3)
    made.make()
    for number, age in enumerate((0.0, 5 * HOUR, 72 * HOUR)):
        put(made, "slates", logged(slate(f"r-{number}")), at=NOW - age)
    for partition in range(2):
        events = message([event("v", f"{partition}"), event("w", "c")])
        put(made, "events", events, events, at=NOW, partition=partition)
    made.swap("archive/events/date=2020-01-01/hour=00/mine.parquet", b"no file of ours", None)
    return made


def run(bucket: Bucket, *arguments: str) -> Result:
    return vireo("archive", *arguments, **bucket.settings.environment())


def test_files_are_listed_by_hour_with_their_number_and_bytes(bucket: Bucket) -> None:
    done = run(bucket, "list", "--last", "6h", "--json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    hours = [(each["kind"], each["hour"], each["files"]) for each in found]
    begins = [
        datetime.fromtimestamp(at // HOUR * HOUR, UTC).isoformat().replace("+00:00", "Z")
        for at in (NOW - 5 * HOUR, NOW)
    ]
    assert hours == [("slates", begins[0], 1), ("events", begins[1], 2), ("slates", begins[1], 1)]
    assert all(each["bytes"] > 1000 for each in found)
    lines = run(bucket, "list", "--kind", "slates").stdout.splitlines()
    assert [line.split()[2:4] for line in lines[1:]] == [["slates", "1"]] * 3


def test_what_was_fetched_is_read_by_hour_and_not_fetched_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    done = run(bucket, "fetch", str(tmp_path), "--last", "6h")
    assert done.exit_code == 0, done.exception
    assert "slates: 2 files" in done.stdout
    frame = pd.read_parquet(tmp_path / "slates")
    assert {*frame["request_id"]} == {"r-0", "r-1"}
    assert {*frame["date"]} == {f"{datetime.fromtimestamp(NOW - h, UTC):%F}" for h in (0, 5 * HOUR)}
    assert len(pd.read_parquet(tmp_path / "events")) == 8
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")}
    damaged = min(before)
    damaged.write_bytes(b"half")
    rewritten = max(before)
    os.utime(rewritten, (0, 0))  # as if the bucket's were newer
    again = json.loads(run(bucket, "fetch", str(tmp_path), "--json").stdout)
    assert [len(again[kind]) for kind in ("slates", "events")] == [3, 2]
    after = {path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")}
    assert {path for path in before if after[path] != before[path]} <= {damaged, rewritten}
    assert damaged.stat().st_size > 4
    assert rewritten.stat().st_mtime > 0
    assert len(pd.read_parquet(tmp_path / "slates")) == 3


def test_the_files_of_a_time_are_those_of_the_bucket_or_of_a_folder(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.settings.environment().items():
        monkeypatch.setenv(name, value)
    since = datetime.fromtimestamp(NOW, UTC) - timedelta(hours=6)
    fetch(bucket, "slates", None, tmp_path)
    for folder in (None, tmp_path):
        with archived(folder, since, "slates") as files:
            assert [*files] == ["slates"]
            assert [pd.read_parquet(file)["request_id"][0] for file in files["slates"]] == [
                "r-1",
                "r-0",
            ]
    with open_store() as store:
        assert len(fetch(store.bucket, "events", since, tmp_path)) == 2


def test_an_empty_archive_says_how_there_comes_to_be_one(bucket: Bucket, tmp_path: Path) -> None:
    empty = Bucket(bucket.settings.model_copy(update={"bucket": "empty"}))
    empty.make()
    done = run(empty, "list")
    assert done.exit_code == 0, done.exception
    assert json.loads(run(empty, "list", "--json").stdout) == []
    failed = run(empty, "fetch", str(tmp_path))
    assert isinstance(failed.exception, VireoError)
    assert "VIREO_SLATE_SHARE=1" in str(failed.exception)
    assert run(bucket, "list", "--last", "soon").exit_code == 2
