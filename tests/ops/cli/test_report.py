"""`vireo report`, on a folder of the archive."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import archiving
from tests.builders.archiving import put
from tests.builders.commands import vireo
from tests.builders.s3 import running_s3
from tests.builders.served_site import VIEWERS, build_site
from tests.builders.shown import START, event, slate, write_archive
from tests.builders.tiny_home import DATASET
from vireo.server.consumer.archived_rows import SLATE_ROWS
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.store import ReleaseStore


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    slates = [slate("a", "1", "x y"), slate("b", "2", "x z", arm="canary")]
    events = [
        *(event("impression", "1", video, 1, "a") for video in "xy"),
        *(event("impression", "2", video, 1, "b") for video in "xz"),
        event("play", "1", "x", 5, watched_seconds=1234.5),
        event("like", "1", "x", 6, "a"),
    ]
    return write_archive(tmp_path / "fetched", slates, events)


def report(archive: Path, *options: str) -> str:
    done = vireo("report", "traffic", "--archive", str(archive), *options)
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_the_table_has_a_section_for_each_dimension(archive: Path) -> None:
    lines = report(archive).splitlines()
    assert lines[0] == "2 slates, 2026-11-30 12:00 to 2026-11-30 12:00 UTC, 2 viewers"
    sections = [line.strip() for line in lines if line.startswith("by ")]
    assert sections == [
        "by surface",
        "by position",
        "by source",
        "by release",
        "by arm",
        "by placement",
    ]
    [whole] = [line.split() for line in lines if line.startswith("all")]
    assert whole == ["all", "4", "0.2", "±0.5", "309", "±605", "250", "±490", "0.000", "1/3"]
    [canary] = [line.split() for line in lines if line.startswith("canary")]
    assert canary == ["canary", "2", *["0.000"] * 4, "0/2"]


def test_json_has_only_the_dimensions_that_were_asked_for(archive: Path) -> None:
    found = json.loads(report(archive, "--by", "arm,position", "--json"))
    assert [*found["by"]] == ["arm", "position"]
    assert found["total"]["videosShown"] == 3
    assert found["impressionsReported"] is True
    [canary, production] = found["by"]["arm"]
    assert (canary["value"], production["value"]) == ("canary", "production")
    assert production["rates"]["likes_per_1000_impressions"] == {
        "value": 500,
        "low": None,
        "high": None,
    }


def test_metrics_are_written_beside_the_result(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "traffic.prom"
    json.loads(report(archive, "--metrics-file", str(file), "--json"))
    text = file.read_text()
    assert 'vireo_traffic_plays_per_impression{dimension="arm",value="canary"} 0.0' in text
    missing = vireo(
        *("report", "traffic", "--archive", str(archive)),
        *("--metrics-file", str(tmp_path / "nowhere" / "traffic.prom")),
    )
    assert "nowhere is no folder; make it" in str(missing.exception)


def test_a_table_says_what_is_not_counted_as_impressions_say(tmp_path: Path) -> None:
    folder, slates = tmp_path / "fetched", [slate("a", "1", "x y")]
    write_archive(folder, slates, [event("play", "1", "x")])
    assert "no event is an impression: every video shown counts as one" in report(folder)
    write_archive(folder, [], [event("impression", "1", "y", 1, "a")])
    assert "1 plays without an impression left out" in report(folder)


def test_slates_before_the_time_take_their_own_events_and_are_not_counted(tmp_path: Path) -> None:
    now = (datetime.now(UTC) - START).total_seconds()
    slates = [
        slate("before", "1", "x", now - 3 * 3600),
        slate("within", "1", "x y", now - 3600),
        slate("long", "1", "y", now - 40 * 86_400),
    ]
    events = [event("play", "1", "x", now - 60, "before"), event("play", "1", "y", now - 60)]
    hours = [datetime.now(UTC) - timedelta(hours=each) for each in (0, 3, 24 * 40)]
    for hour, some in zip(hours, (slates[1:2], slates[:1], slates[2:]), strict=True):
        write_archive(tmp_path, some, events if some == slates[1:2] else [], hour=hour)
    found = json.loads(report(tmp_path, "--last", "2h", "--json"))
    assert (found["slates"], found["total"]["impressions"]) == (1, 2)
    assert found["total"]["rates"]["plays_per_impression"]["value"] == 0.5
    assert json.loads(report(tmp_path, "--last", "1d", "--json"))["slates"] == 2
    assert json.loads(report(tmp_path, "--json"))["slates"] == 3


def test_without_a_folder_the_report_is_of_the_buckets_last_day(tmp_path: Path) -> None:
    now = time.time()
    with running_s3(tmp_path) as settings:
        bucket = Bucket(settings)
        bucket.make()
        for request, at in (("now", now - 60), ("old", now - 30 * 3600)):
            put(bucket, "slates", archiving.logged(archiving.slate(request, at=at)), at=at)
        done = vireo("report", "traffic", "--json", **settings.environment())
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert (found["slates"], found["total"]["videosShown"]) == (1, 2)
    assert [each["value"] for each in found["by"]["placement"]] == ["diversity", "score"]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    none = vireo("report", "traffic", "--archive", str(tmp_path / "nowhere"))
    assert isinstance(none.exception, VireoError)
    assert "nowhere has no slates of this time; set VIREO_SLATE_SHARE=1 on gateways" in str(
        none.exception
    )
    for options, problem in (
        (("--last", "3 weeks"), "write 90m, 24h or 7d"),
        (("--by", "arm,country"), "country, which is none of surface"),
    ):
        wrong = vireo("report", "traffic", *options)
        assert wrong.exit_code == 2
        assert problem in wrong.output


@pytest.mark.integration
def test_features_of_slates_are_compared_and_a_fault_fails_the_command(tmp_path: Path) -> None:
    site = build_site(tmp_path)
    place = tmp_path / "archive"
    for kind in ("slates", "events"):
        (place / kind / "date=2026-12-02" / "hour=15").mkdir(parents=True)
    shutil.copy(site.events, place / "events" / "date=2026-12-02" / "hour=15" / "0-0.parquet")
    file = place / "slates" / "date=2026-12-02" / "hour=15" / "0-0.parquet"
    arguments = ("report", "skew", "--data", DATASET, "--archive", str(place))
    rows = [site.row(viewer) for viewer in VIEWERS]
    with running_s3(tmp_path) as s3:
        environment = {**s3.environment(), "VIREO_HOME": str(tmp_path)}
        ReleaseStore(s3).publish(site.release)
        pq.write_table(pa.Table.from_pylist(rows, SLATE_ROWS.schema), file)
        done = vireo(*arguments, **environment)
        assert done.exit_code == 0, done.exception
        assert "30 of 30 slates: viewers compared" in done.stdout
        rows[3] = site.row(VIEWERS[3], lambda viewer: viewer.attributes.pop())
        pq.write_table(pa.Table.from_pylist(rows, SLATE_ROWS.schema), file)
        done = vireo(*arguments, "--json", **environment)
        unbuilt = vireo("report", "skew", "--data", "other", **environment)
    assert "vireo features build --data other" in str(unbuilt.exception)
    assert f"slates that differ: 1; of {VIEWERS[3]} at viewer: attributes was 1 values" in str(
        done.exception
    )
    [difference] = json.loads(done.stdout)["differences"]
    assert (difference["value"], difference["computed"]) == ("attributes", "2 values")
