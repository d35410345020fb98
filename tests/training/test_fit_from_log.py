"""`vireo train --from-log`: what the release learns of slates, and what stays as without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.commands import vireo
from tests.builders.replaying import Serving
from tests.builders.s3 import running_s3
from tests.builders.shown import event
from tests.training.conftest import REFITTED
from vireo.server.consumer.archived_rows import EVENT_ROWS, SLATE_ROWS, Row
from vireo.server.features.keys import video_keys
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.training.features.watches import load_watches
from vireo.training.ranking import shown_lists
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@dataclass(frozen=True)
class Site:
    """A home with a published release, and a copy of the archive of what it showed."""

    home: Home
    archive: Path
    environment: dict[str, str]

    def train(self, *arguments: str) -> tuple[Manifest, str]:
        """Train without the second fit; return the measured release, and what was said."""
        common = ("train", "--data", REFITTED, "--profile", "quick", "--no-refit", "--force")
        done = vireo(*common, "--json", *arguments, **self.environment)
        assert done.exit_code == 0, done.exception
        json.loads(done.stdout)
        return Manifest.read(self.home.measuring.staged_release(REFITTED)), done.stderr


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture
def site(refitted_home: Home, s3: S3Settings, tmp_path: Path) -> Site:
    """Every viewer saw a slate of four videos, and played the first."""
    home = Home(Path(shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)))
    folder = home.staged_release(REFITTED)
    serving, slates, events = Serving(folder), list[Row](), list[Row]()
    for name, watches in load_watches(home, REFITTED).groupby("viewer_id"):
        request = RetrieveCandidatesRequest(count=30, page_size=4)
        request.viewer.history_keys.extend(video_keys(watches["video_id"].tolist()))
        request.viewer.history_times.extend(range(len(watches)))
        request.viewer.asked_at = 1_700_000_000
        row = serving.row(request, f"r-{name}", viewer_id=str(name))
        slates.append(row)
        at = row["answered_at"] + pd.Timedelta(seconds=5)
        for kind, video in (("impression", 0), ("impression", 1), ("impression", 2), ("play", 0)):
            made = event(kind, str(name), row["video_ids"][video], request=row["request_id"])
            events.append({**made, "at": at, "received_at": at})
    for stored, rows in ((SLATE_ROWS, slates), (EVENT_ROWS, events)):
        place = tmp_path / "archive" / stored.name / "date=2026-12-02" / "hour=17"
        place.mkdir(parents=True)
        table = pa.Table.from_pylist(rows, stored.schema)
        pq.write_table(table, place / f"0-{1:020}-{0:016x}.parquet")
    ReleaseStore(s3).publish(folder)
    environment = {"VIREO_HOME": str(home.root), **s3.environment()}
    return Site(home, tmp_path / "archive", environment)


def test_a_release_learns_from_slates_and_without_them_is_as_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Manifest.read(site.home.measuring.staged_release(REFITTED))
    monkeypatch.setattr(shown_lists, "MIN_PLAYED_SLATES", 10)
    arguments = ("--from-log", "--archive", str(site.archive))
    learned, said = site.train(*arguments)
    assert "slates of the log" in said
    assert "resuming from the checkpoint, 100% done" in said, "towers don't learn from slates"
    assert learned.release_id != before.release_id
    assert learned.files.keys() == before.files.keys()
    assert "nothing to do" in site.train(*arguments)[1]

    usual, said = site.train()
    assert "slates of the log" not in said
    assert usual.metrics == before.metrics
    ranker = layout.RANKER
    assert usual.files[ranker] == before.files[ranker] != learned.files[ranker]


def test_with_too_few_slates_it_trains_without(site: Site) -> None:
    before = Manifest.read(site.home.measuring.staged_release(REFITTED))
    learned, said = site.train("--from-log", "--archive", str(site.archive))
    assert "the ranker is trained without them" in said
    assert learned.metrics == before.metrics


def test_a_time_of_the_archive_says_that_it_is_read(site: Site) -> None:
    done = vireo("train", "--data", REFITTED, "--last", "7d", **site.environment)
    assert done.exit_code == 2
    assert "--from-log" in done.output
