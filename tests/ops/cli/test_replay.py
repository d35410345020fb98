"""`vireo replay`, over a folder of archived slates and a real S3 server with their releases."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from tests.builders.commands import vireo
from tests.builders.releases import build_release
from tests.builders.replaying import Serving
from tests.builders.s3 import running_s3
from vireo.server.consumer.archived_rows import SLATE_ROWS
from vireo.server.errors import VireoError
from vireo.server.features.keys import video_key
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def s3(home: Path) -> Iterator[S3Settings]:
    with running_s3(home) as settings:
        yield settings


@pytest.fixture(scope="module")
def rows(home: Path, s3: S3Settings) -> list[dict[str, Any]]:
    """Slates of one of two releases that are published."""
    release = build_release(home / "one")
    for folder in (release, build_release(home / "other", release_id="tiny-2", seed=5)):
        ReleaseStore(s3).publish(folder)
    draw, serving, made = random.Random(1), Serving(release), []
    for number in range(8):
        request = RetrieveCandidatesRequest(count=30, page_size=5)
        watched = [video_key(f"video-{row}") for row in draw.sample(range(40), 3)]
        request.viewer.history_keys.extend(watched)
        request.viewer.history_times.extend(range(3))
        request.viewer.watched_keys.extend(watched)
        request.viewer.asked_at = 1_700_000_000
        made.append(serving.row(request, f"r-{number}"))
    return made


def archive(folder: Path, *files: list[dict[str, Any]]) -> Path:
    place = folder / "slates" / "date=2026-12-02" / "hour=15"
    place.mkdir(parents=True)
    for number, some in enumerate(files):
        table = pa.Table.from_pylist(some, SLATE_ROWS.schema)
        pq.write_table(table, place / f"0-{number:020}-{0:016x}.parquet")
    return folder


def replay(s3: S3Settings, folder: Path, home: Path, *arguments: str) -> Result:
    environment = {**s3.environment(), "VIREO_HOME": str(home)}
    return vireo("replay", *arguments, "--archive", str(folder), **environment)


def test_slates_are_the_same_also_beside_files_that_an_erasure_emptied(
    s3: S3Settings, rows: list[dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    folder = archive(tmp_path, rows[:5], [], rows[5:])
    done = replay(s3, folder, home)
    assert done.exit_code == 0, done.exception
    assert "8 of 8 slates are the same" in done.stdout
    found = json.loads(replay(s3, folder, home, "--sample", "3", "--json").stdout)
    assert (found["slates"], found["equal"]) == (3, 3)
    assert "1 of 1 slates" in replay(s3, folder, home, "r-6").stdout
    assert "no slate of request 'r-9' of this time" in str(
        replay(s3, folder, home, "r-9").exception
    )


def test_a_slate_that_differs_fails_and_says_where(
    s3: S3Settings, rows: list[dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    changed = {**rows[0], "task_watch": [0.5, *rows[0]["task_watch"][1:]]}
    done = replay(s3, archive(tmp_path, [changed, *rows[1:]]), home)
    assert isinstance(done.exception, VireoError)
    text = str(done.exception)
    assert "slates that differ: 1; r-0 at ranking: task_watch of video-" in text
    assert "7 of 8 slates are the same" in done.stdout


def test_another_release_is_compared_and_may_be_refused(
    s3: S3Settings, rows: list[dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    folder = archive(tmp_path, rows)
    same = json.loads(replay(s3, folder, home, "--release", "tiny-1", "--json").stdout)
    assert (same["meanOverlap"], same["meanScoreShift"]) == (1, pytest.approx(0, abs=1e-6))
    other = json.loads(replay(s3, folder, home, "--release", "tiny-2", "--json").stdout)
    assert other["meanOverlap"] < 1
    refused = replay(s3, folder, home, "--release", "tiny-2", "--min-overlap", "1")
    assert isinstance(refused.exception, VireoError)
    assert "--min-overlap 1" in str(refused.exception)
