"""Files as a newcomer brings them, with what is usually wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from vireo.ops.cli import data
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import load_dataset

app = typer.Typer()
app.add_typer(data.app, name="data")

VIDEOS = "video_id,title\n" + "".join(f"b7e1-{n:04},Film {n}\n" for n in range(6))
INTERACTIONS = """\
viewer_id,video_id,timestamp
zoë@example.org,b7e1-0000,2024-05-01T18:00:00+02:00
zoë@example.org,b7e1-0001,2024-05-01T16:00:01
00042,b7e1-0001,1714579202
00042,b7e1-0002,2024-05-01 09:00:03-07:00
zoë@example.org,b7e1-0002,2100-01-01T00:00:00Z
zoë@example.org,b7e1-0000,2024-05-01T16:00:00Z
zoë@example.org,b7e1-0003,2024-05-01T16:00:04Z
00042,film-1,2024-05-01T16:00:05Z
00042,b7e1-0004,20240501
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path / "home"))
    (tmp_path / "watched.csv").write_text(INTERACTIONS)
    (tmp_path / "videos.csv").write_text(VIDEOS)
    return ["--interactions", f"{tmp_path}/watched.csv", "--videos", f"{tmp_path}/videos.csv"]


def imported(*arguments: str) -> Result:
    command = ["data", "import", "--name", "mine", *arguments]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, command)


def test_all_bad_rows_are_reported_with_a_fix(files: list[str]) -> None:
    refused = imported(*files)
    assert refused.output.startswith("mine: about 9 interactions, 6 videos: takes about 0.")
    assert isinstance(refused.exception, VireoError)
    first, future, unknown, day = str(refused.exception).splitlines()
    assert first == (
        "3 bad values, nothing was imported; fix the files or pass --skip-bad-rows to drop such "
        "rows"
    )
    assert future.startswith(
        "  watched.csv, row 6, column timestamp: '2100-01-01T00:00:00Z' is in the future (it is "
    )
    assert future.endswith("now); write the time of the event, or set this machine's clock")
    assert unknown == (
        "  watched.csv, row 9, column video_id: video 'film-1' is not in the videos file; add the "
        "video there or leave the row out"
    )
    assert day == (
        "  watched.csv, row 10, column timestamp: '20240501' is a day, not Unix seconds; write it "
        "with dashes, for example 2024-05-01"
    )


def test_bad_rows_are_skipped_and_counted_and_the_rest_keeps_its_moments(files: list[str]) -> None:
    done = imported(*files, "--skip-bad-rows")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1:] == [
        "mine: 5 interactions of 2 viewers with 6 videos.",
        "  3 bad interactions left out",
        "  1 repeated interactions dropped",
        "  1 interactions earlier than the row before, sorted",
    ]
    frame = load_dataset(Home.current(), "mine").interactions
    moments = [f"{time:%H:%M:%S}" for time in frame["timestamp"]]
    assert moments == [f"16:00:0{second}" for second in range(5)]
    assert frame["viewer_id"].tolist()[1:3] == ["zoë@example.org", "00042"]
