from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.builders.commands import vireo
from tests.builders.event_batches import message
from tests.builders.nats import RunningNats, running_nats, settings_of, with_log
from vireo.ops.stack.nats import log_environment
from vireo.server.errors import VireoError
from vireo.server.event_log.log import EVENTS
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import read_viewer
from vireo.v1 import event_pb2

# Ten viewers watch on around a ring of eight videos.
INTERACTIONS = "viewer_id,video_id,timestamp,event\n" + "".join(
    f"0{viewer},v{(viewer + step) % 8},{1_700_000_000 + 60 * step},{'like' if step == 2 else ''}\n"
    for viewer in range(10)
    for step in range(5)
)
VIDEOS = "video_id,title\n" + "".join(f"v{n},[bold]Title {n}\n" for n in range(8))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path / "home"))
    (tmp_path / "i.csv").write_text(INTERACTIONS)
    (tmp_path / "v.csv").write_text(VIDEOS)
    return ["--interactions", str(tmp_path / "i.csv"), "--videos", str(tmp_path / "v.csv")]


def test_own_data_goes_from_files_to_a_viewers_online_features(files: list[str]) -> None:
    done = vireo("data", "import", *files)
    assert done.exit_code == 0, done.output
    assert "mine: 50 interactions of 10 viewers with 8 videos." in done.output

    listed = vireo("data", "list")
    assert "mine" in listed.output
    assert "2023-11-14" in listed.output
    assert "40 play, 10 like" in vireo("data", "show", "--data", "mine").output
    shown = json.loads(vireo("data", "show", "--data", "mine", "--json").output)
    assert shown["events"] == {"play": 40, "like": 10}
    assert json.loads(vireo("data", "list", "--json").output) == [shown]

    built = vireo("features", "build", "--data", "mine")
    assert built.exit_code == 0, built.output
    assert built.stderr.startswith("mine: takes about 0.9 GB of memory, ")
    assert built.stdout == "mine: features built from every event\n"
    viewer = json.loads(vireo("features", "show", "03", "--data", "mine", "--json").output)
    assert viewer["viewerId"] == "03"
    assert viewer["historyIds"] == ["v3", "v4", "v5", "v6", "v7"]
    assert viewer["viewerLikeCount"] == 1
    table = vireo("features", "show", "03", "--data", "mine").output
    assert "[bold]Title 7" in table
    assert "cold start" in vireo("features", "show", "3", "--data", "mine").output


def test_a_data_set_that_is_named_by_nobody_is_the_newest(files: list[str]) -> None:
    refused = vireo("data", "show")
    assert "there is no data set in" in str(refused.exception)
    for name in ("older", "newer"):
        assert vireo("data", "import", *files, "--data", name).exit_code == 0
    assert json.loads(vireo("data", "show", "--json").output)["name"] == "newer"
    assert "there is no trained release in" in str(vireo("release", "publish").exception)


def test_a_data_set_is_removed_with_its_features_once_that_is_confirmed(files: list[str]) -> None:
    vireo("data", "import", *files)
    vireo("features", "build")
    tried = vireo("data", "rm", "--data", "mine", "--dry-run", "--json")
    assert len(json.loads(tried.stdout)["folders"]) == 2
    assert vireo("data", "rm", "--data", "mine").exit_code == 1, "nobody answers"
    assert "mine" in vireo("data", "list").stdout
    assert vireo("data", "rm", "--data", "mine", "--yes").stdout == "removed data set mine\n"
    assert vireo("data", "list").stdout == ""
    assert "nothing of a data set mine" in str(vireo("data", "rm", "--data", "mine").exception)


def test_events_become_data_and_a_hide_is_shown(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = vireo("data", "from-events", "--data", "live")
    assert isinstance(missing.exception, VireoError)
    assert "has no log of events yet; start the stack with: vireo up" in str(missing.exception)
    assert vireo("data", "import", *files).exit_code == 0
    hide = event_pb2.Event(event_id="1", viewer_id="03", video_id="v1")
    hide.kind = event_pb2.EVENT_KIND_HIDE
    hide.time.FromSeconds(1_700_001_000)
    with running_nats(tmp_path / "nats") as nats:
        with_log(nats, lambda log: log.append(EVENTS, "0", message([hide])))
        for name, text in log_environment(settings_of(nats)).items():
            monkeypatch.setenv(name, text)
        done = vireo("data", "from-events", "--data", "live", "--base", "mine")
    assert done.exit_code == 0, done.output
    assert "live: 51 interactions of 10 viewers with 8 videos." in done.output
    assert vireo("features", "build", "--data", "live").exit_code == 0
    shown = json.loads(vireo("features", "show", "03", "--data", "live", "--json").output)
    assert (shown["hiddenIds"], shown["hiddenTimes"]) == (["v1"], [1_700_001_000])


def test_repaired_rows_are_reported(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text(INTERACTIONS + "00,nothing,1,\n00,v0,1700000000,\n")
    refused = vireo("data", "import", *files)
    assert isinstance(refused.exception, VireoError)
    assert "i.csv, row 52, column video_id: video 'nothing'" in str(refused.exception)
    done = vireo("data", "import", *files, "--skip-bad-rows", "--data", "other")
    assert "1 bad interactions left out" in done.output
    assert "1 repeated interactions dropped" in done.output
    assert "1 repeated interactions dropped" in vireo("data", "show", "--data", "other").output


def test_attributes_are_declared_by_options_and_shown(files: list[str], tmp_path: Path) -> None:
    lines = [f"v{n},Title {n},{'de|fr' if n else ''},{n}\n" for n in range(8)]
    (tmp_path / "v.csv").write_text("video_id,title,spoken,age\n" + "".join(lines))
    declared = ["--attribute", "language=spoken", "--attribute", "age:number"]
    done = vireo("data", "import", *files, *declared)
    assert done.exit_code == 0, done.output
    assert "language (labels), age (number)" in vireo("data", "show", "--data", "mine").output
    shown = json.loads(vireo("data", "show", "--data", "mine", "--json").output)
    assert shown["attributes"] == {"language": "labels", "age": "number"}
    refused = vireo("data", "import", *files, "--replace", "--attribute", "land")
    assert "has no column land for the attribute land" in str(refused.exception)
    assert "--attribute region=countries" in vireo("data", "import", "--help").output


def test_a_home_without_data_says_how_to_get_some(files: list[str]) -> None:
    assert "vireo data fetch ml-100k" in vireo("data", "list").output
    assert vireo("data", "list", "--json").output == "[]\n"
    for command in (["data", "show", "--data", "ml-1m"], ["features", "build", "--data", "ml-1m"]):
        assert "make it with: vireo data fetch ml-1m" in str(vireo(*command).exception)
    unbuilt = vireo("features", "show", "1", "--data", "ml-1m")
    assert "build them with: vireo features build --data ml-1m" in str(unbuilt.exception)


def test_wrong_usage_exits_with_2(files: list[str]) -> None:
    assert vireo("data", "import", "--videos", "v.csv").exit_code == 2
    assert vireo("features", "show").exit_code == 2


def test_a_made_up_world_is_a_data_set_like_any_other(files: list[str]) -> None:
    sizes = ["--viewer-count", "20", "--video-count", "30", "--event-count", "400"]
    done = vireo("data", "synth", *sizes)
    assert done.exit_code == 0, done.output
    assert "synth: 400 interactions of 20 viewers with 30 videos." in done.output
    assert vireo("features", "build", "--data", "synth").exit_code == 0
    assert "pass --replace" in str(vireo("data", "synth", *sizes).exception)
    assert "region" in vireo("data", "synth", "--help").output


def test_an_import_that_names_its_place_in_the_log_has_builds_read_what_came_since(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the log is another one than the import was made with, all of it is read."""

    def record(nats: RunningNats, video: str) -> None:
        event = event_pb2.Event(
            event_id=video, viewer_id="00", video_id=video, kind=event_pb2.EVENT_KIND_PLAY
        )
        event.time.GetCurrentTime()
        with_log(nats, lambda log: log.append(EVENTS, "0", message([event])))

    def built() -> set[int]:
        """Build the features; return what viewer 00 has watched."""
        done = vireo("features", "build", "--data", "mine")
        assert done.exit_code == 0, done.output
        return set(read_viewer(tmp_path / "home/features/mine", "00").watched_keys)

    imports = ["data", "import", *files, "--replace", "--log-lag", "0"]
    with running_nats(tmp_path / "nats") as nats:
        for name, value in log_environment(settings_of(nats)).items():
            monkeypatch.setenv(name, value)
        record(nats, "v5")
        between = datetime.now(UTC) + timedelta(milliseconds=1)
        done = vireo(*imports)
        assert "read all of it" in done.output, "its data ends before the log"
        assert video_key("v5") in built()

        last = f"00,v1,{between.isoformat()},\n"
        (tmp_path / "i.csv").write_text(f"{INTERACTIONS}{last}")
        done = vireo(*imports)
        assert done.exit_code == 0, done.output
        assert "read all of it" not in done.output
        record(nats, "v6")
        watched = built()
        assert video_key("v6") in watched
        assert video_key("v5") not in watched, "the files were said to have it"

        nats.kill()
        nats.forget()
        nats.start()
        for video in ("v7", "v5"):
            record(nats, video)
        assert {video_key("v5"), video_key("v7")} < built()
        nats.kill()
        done = vireo(*imports)
        assert done.exit_code == 1
        assert "the log can't be read" in str(done.exception)
