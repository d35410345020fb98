"""`vireo recommend --all`: a file with each viewer once, whatever becomes of the calls."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from tests.builders.commands import vireo
from tests.builders.fake_stack import stack
from tests.builders.tiny_home import VIEWER, build_tiny_features
from vireo.ops.cli import recommend_all
from vireo.ops.cli.recommend_all import chosen_viewers
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo_client.testing import FakeStack

__all__ = ["stack"]

run = partial(vireo, "recommend")


def written(stack: FakeStack, ids: Path, out: Path, *more: str) -> Result:
    """Have a stack's slates written for the viewers of a file."""
    given = ("--viewers", str(ids), "--out", str(out), "--target", stack.target)
    return run(*given, *more)


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids.txt"
    path.write_text("a\nb\n\nc\na\nd e\n", encoding="utf-8")
    return path


def test_the_file_has_a_row_for_each_viewer(stack: FakeStack, ids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    slates = {viewer: pb.RecommendResponse(release_id="r") for viewer in ("a", "b", "c", "d e")}
    slates["b"].items.extend(
        pb.SlateItem(video_id=f"b-{place}", score=1 / place) for place in (1, 2)
    )
    slates["b"].degradations.append(viewer_pb2.DEGRADATION_POPULAR_FALLBACK)
    stack.answer([pb.BatchRecommendResponse(viewer_id=each, slate=slates[each]) for each in slates])
    done = written(stack, ids, out)
    assert done.exit_code == 0, done.output
    assert "4 viewers" in done.output
    assert "popular fallback, 1 slates" in done.output
    rows = pq.read_table(out).to_pylist()
    assert [row["viewer_id"] for row in rows] == ["a", "b", "c", "d e"]
    assert rows[1] == {
        "viewer_id": "b",
        "video_ids": ["b-1", "b-2"],
        "scores": [1.0, 0.5],
        "release_id": "r",
        "degradations": ["popular_fallback"],
    }
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == [out.name]
    assert "no video meets" not in done.output


def test_a_filter_is_sent_along_and_slates_that_it_leaves_empty_are_counted(
    stack: FakeStack, ids: Path, tmp_path: Path
) -> None:
    out, empty = tmp_path / "out.parquet", pb.RecommendResponse(filter_unmet=True)
    stack.answer(
        [pb.BatchRecommendResponse(viewer_id=each, slate=empty) for each in ("a", "b", "c", "d e")]
    )
    asked = '{"conditions": [{"attribute": "tag", "anyOf": ["a"]}]}'
    done = written(stack, ids, out, "--filter", asked, "--page-size", "3")
    assert "no video meets the filter and the site's rules: 4 empty slates" in done.output
    assert not any(row["video_ids"] for row in pq.read_table(out).to_pylist())
    [request] = stack.requests
    assert request.filter.conditions[0].any_of == ["a"]
    assert request.page_size == 3


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED]
)
def test_calls_that_end_early_are_resumed(
    stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(recommend_all, "MAX_VIEWERS", 7)
    monkeypatch.setattr(recommend_all, "_ROW_GROUP", 4)
    viewers = [f"viewer-{number}" for number in range(20)]
    ids, out = tmp_path / "ids", tmp_path / "out.parquet"
    ids.write_text("\n".join(viewers))
    stack.fail(code, times=3, after=2)
    done = written(stack, ids, out)
    assert done.exit_code == 0, done.output
    assert pq.read_table(out)["viewer_id"].to_pylist() == viewers
    assert len(stack.requests) == 3 + 3


def test_a_call_that_fails_for_good_leaves_the_file_as_it_was(
    stack: FakeStack, ids: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("an earlier one")
    stack.fail(grpc.StatusCode.INVALID_ARGUMENT, after=2)
    done = written(stack, ids, out)
    assert isinstance(done.exception, VireoError)
    assert out.read_text() == "an earlier one"
    assert {path.name for path in tmp_path.iterdir()} == {ids.name, out.name}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all"],
        ["--out", "f"],
        ["1", "--out", "f"],
        ["1", "--all", "--out", "f"],
        ["--all", "--out", "f", "--playing", "v"],
    ],
)
def test_options_that_dont_go_together_are_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_all_viewers_are_those_of_the_newest_data_set_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    with pytest.raises(VireoError, match="there is no data set in"):
        chosen_viewers("", None)
    build_tiny_features(Home(tmp_path))
    assert chosen_viewers("", None) == chosen_viewers("tiny", None) == [VIEWER]


@pytest.mark.parametrize(
    ("content", "out", "what"),
    [
        (b"", "out", "has no ids"),
        (b"\n\n", "out", "has no ids"),
        (b"\xff", "out", "UTF-8"),
        (b"a", "nowhere/out", "nowhere"),
    ],
)
def test_a_file_without_ids_or_in_no_folder_is_named_before_any_call(
    tmp_path: Path, content: bytes, out: str, what: str
) -> None:
    path = tmp_path / "ids"
    path.write_bytes(content)
    done = run("--viewers", str(path), "--out", str(tmp_path / out), "--target", "127.0.0.1:1")
    assert isinstance(done.exception, VireoError)
    assert what in str(done.exception)
