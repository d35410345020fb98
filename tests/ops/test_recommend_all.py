"""`vireo recommend --all`: a file with each viewer once, whatever becomes of the calls."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest

from tests.builders.batches import SERVICE, batch_handlers
from tests.builders.commands import vireo
from tests.builders.tiny_home import VIEWER, build_tiny_features
from vireo.ops.cli import recommend_all
from vireo.ops.cli.recommend_all import viewers_of
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

FALLBACK = viewer_pb2.DEGRADATION_POPULAR_FALLBACK


class Slates:
    """A gateway whose calls end after two slates, until it has failed as often as told."""

    def __init__(
        self, failures: int = 0, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    ) -> None:
        self.failures, self.code = failures, code
        self.requests: list[pb.BatchRecommendRequest] = []

    def answer(
        self, request: pb.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.BatchRecommendResponse]:
        self.requests.append(request)
        begin = int(request.resume_token or 0)
        for number, viewer_id in enumerate(request.viewer_ids[begin:]):
            if number == 2 and len(self.requests) <= self.failures:
                context.abort(self.code, "the gateway was killed")
            slate = pb.RecommendResponse(release_id="r")
            if viewer_id == "b":
                slate.degradations.append(FALLBACK)
            slate.filter_unmet = request.HasField("filter")
            for position in () if slate.filter_unmet else (1, 2):
                slate.items.add(video_id=f"{viewer_id}-{position}", score=1 / position)
            token = str(begin + number + 1)
            yield pb.BatchRecommendResponse(viewer_id=viewer_id, slate=slate, resume_token=token)


@contextmanager
def served(slates: Slates) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.method_handlers_generic_handler(SERVICE, batch_handlers(slates.answer))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


run = partial(vireo, "recommend")


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids.txt"
    path.write_text("a\nb\n\nc\na\nd e\n", encoding="utf-8")
    return path


def test_the_file_has_a_row_for_each_viewer(ids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with served(Slates()) as target:
        done = run("--viewers", str(ids), "--out", str(out), "--target", target)
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
    ids: Path, tmp_path: Path
) -> None:
    out, slates = tmp_path / "out.parquet", Slates()
    asked = '{"conditions": [{"attribute": "tag", "anyOf": ["a"]}]}'
    with served(slates) as target:
        done = run(
            *("--viewers", str(ids), "--out", str(out), "--target", target),
            *("--filter", asked, "--page-size", "3"),
        )
    assert "no video meets the filter and the site's rules: 4 empty slates" in done.output
    assert not any(row["video_ids"] for row in pq.read_table(out).to_pylist())
    [request] = slates.requests
    assert request.filter.conditions[0].any_of == ["a"]
    assert request.page_size == 3


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED]
)
def test_calls_that_end_early_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(recommend_all, "MAX_VIEWERS", 7)
    monkeypatch.setattr(recommend_all, "_ROW_GROUP", 4)
    viewers = [f"viewer-{number}" for number in range(20)]
    ids, out = tmp_path / "ids", tmp_path / "out.parquet"
    ids.write_text("\n".join(viewers))
    slates = Slates(failures=3, code=code)
    with served(slates) as target:
        done = run("--viewers", str(ids), "--out", str(out), "--target", target)
    assert done.exit_code == 0, done.output
    assert pq.read_table(out)["viewer_id"].to_pylist() == viewers
    assert len(slates.requests) == 3 + 3


def test_a_call_that_fails_for_good_leaves_the_file_as_it_was(ids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("an earlier one")
    with served(Slates(failures=1, code=grpc.StatusCode.INVALID_ARGUMENT)) as target:
        done = run("--viewers", str(ids), "--out", str(out), "--target", target)
    assert isinstance(done.exception, VireoError)
    assert out.read_text() == "an earlier one"
    assert {path.name for path in tmp_path.iterdir()} == {ids.name, out.name}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all"],
        ["--out", "f"],
        ["--viewer", "1", "--out", "f"],
        ["--viewer", "1", "--all", "--out", "f"],
        ["--all", "--out", "f", "--seed", "v"],
        ["--all", "--out", "f", "--json"],
    ],
)
def test_options_that_dont_go_together_are_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_all_viewers_are_those_of_the_only_data_set_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    with pytest.raises(VireoError, match="--data NAME: there is none"):
        viewers_of("")
    build_tiny_features(Home(tmp_path))
    assert viewers_of("") == viewers_of("tiny") == [VIEWER]


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
