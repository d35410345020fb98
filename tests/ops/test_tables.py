"""Every table that people see is readable on a terminal of 80 columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from tests.builders.releases import build_release
from vireo.ops.cli.control import resource_table, summary
from vireo.ops.cli.output import print_table, table_of
from vireo.ops.cli.recommend import print_slate
from vireo.ops.cli.release.promote import print_gate
from vireo.ops.cli.release.stored import (
    print_channels,
    print_history,
    print_pods,
    print_releases,
)
from vireo.ops.cli.up import print_status, process_lines
from vireo.ops.edge import EnvoyStatus, ResourceStatus
from vireo.ops.stack.state import ProcessState, StackState, State
from vireo.server.releases.channels import Channel, ChannelPointer
from vireo.server.releases.gate import Check, GateResult, Verdict
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ListedRelease
from vireo.v1 import recommendation_pb2, viewer_pb2
from vireo.v1.release_pb2 import (
    LOAD_STAGE_DOWNLOADING,
    GetServingReleaseResponse,
    ReleaseLoad,
)

WIDTH = 80
RELEASE = "20261126-125620-1cc2ec42"
OTHER = "20261127-235959-ffffffff"
NAMES = ("s3", "control", "gateway-1", "candidate-canary-1", "ranking-canary-2", "envoy")
WHEN = datetime(2026, 11, 26, 12, 56, tzinfo=UTC)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed; nothing in it is cut."""
    text = capsys.readouterr().out
    assert "…" not in text.replace("…+", "").replace("…-", ""), text
    return text.splitlines()


def line_with(lines: list[str], *cells: str) -> str:
    """The one line that has all these cells, whole and in this order; it fits."""
    [line] = [each for each in lines if each.split()[: len(cells)] == list(cells)]
    assert len(line) <= WIDTH, line
    return line


def state(process_state: State = "healthy", problem: str = "") -> StackState:
    return StackState(
        pid=4_194_304,
        started_at=WHEN,
        ready=False,
        channel="production",
        edge="127.0.0.1:8080",
        admin_port=8100,
        processes=tuple(
            ProcessState(
                name=name,
                state=process_state,
                pid=4_194_303,
                port=65_535,
                restarts=12,
                problem=problem,
                log=Path("/log"),
                pool="production",
            )
            for name in NAMES
        ),
    )


def test_status_and_up_have_a_line_per_process_and_problems_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problem = "vireo.v1.RecommendationService on port 8140: NOT_SERVING"
    served = dict.fromkeys(NAMES, GetServingReleaseResponse(release_id=RELEASE, origin="s3"))
    print_status(state("restarting", problem), served, [])
    lines = lines_of(capsys)
    for name in NAMES:
        line_with(lines, name, "restarting", "4194303", "65535", "12", RELEASE)
        assert f"{name}: {problem}" in lines
    Console().print(process_lines(state("unhealthy", problem).processes))
    lines = [line.rstrip() for line in lines_of(capsys)]
    for name in NAMES:
        line_with(lines, name, "unhealthy", "4194303", "65535", "12")
        assert f"{name}: {problem}" in lines


def test_status_marks_a_release_from_the_cache_and_how_old_takedowns_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = (GetServingReleaseResponse(release_id=RELEASE, origin="cache") for _ in range(2))
    at = datetime.now(UTC) - timedelta(hours=2, minutes=1)
    old.takedowns_as_of.FromDatetime(at)
    new.takedowns_as_of.GetCurrentTime()
    print_status(state(), {"gateway-1": old, "ranking-canary-2": new}, [])
    lines = [each for each in lines_of(capsys) if ": " in each]
    as_of = f"{at:%Y-%m-%d %H:%M}"
    assert any("ranking-canary-2: its release is from the cache" in each for each in lines)
    assert f"gateway-1: takedowns as of {as_of} UTC, 2 h old: the log is away" in lines
    assert not any("takedowns" in each for each in lines if not each.startswith("gateway-1"))


def envoy(*resources: ResourceStatus) -> EnvoyStatus:
    versions = {each.kind: "0123456789abcdef" for each in resources}
    return EnvoyStatus("envoy-8080", "envoy 1.40.0", versions, resources)


def test_an_envoy_that_has_taken_nothing_yet_says_so() -> None:
    assert summary([envoy()]) == "envoy-8080: no resources yet"


def test_a_snapshot_has_a_line_for_each_resource(capsys: pytest.CaptureFixture[str]) -> None:
    of = ("fedcba9876543210", "REQUESTED", "", "")
    names = ("candidate-canary", "ranking-canary")
    print_table(resource_table(envoy(*(ResourceStatus("endpoints", name, *of) for name in names))))
    lines = lines_of(capsys)
    line_with(lines, "endpoints", "0123456789abcdef", names[0], *of[:2])
    line_with(lines, names[1], *of[:2])


def test_releases_and_channels_have_a_line_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest = Manifest.read(build_release(tmp_path, release_id=RELEASE))
    wide = manifest.model_copy(update={"dataset": "movielens-25m"})
    unfit = ListedRelease(OTHER, None, "format_version is 2, this build reads 9; train it anew")
    print_releases(
        [ListedRelease(RELEASE, wide, ""), unfit], {RELEASE: ["production"], OTHER: ["canary"]}
    )
    pointer = ChannelPointer(
        release_id=RELEASE,
        updated_at=WHEN,
        updated_by="somebody@a-long-host-name.example.com",
        reason="the median of the slates was measured by hand",
        action="rollback",
        forced=True,
        previous=OTHER,
        share=0.125,
        revision=1234,
    )
    print_channels({"production": Channel("production", pointer, "etag")})
    print_history([pointer])
    lines = lines_of(capsys)
    line_with(lines, RELEASE, "movielens-25m", "2024-01-01", "00:00")
    line_with(lines, OTHER, "unfit", "canary")
    assert any(line.startswith(f"{OTHER}: format_version is 2") for line in lines)
    assert f"production names {RELEASE} for 12.5% of the viewers" in lines
    line_with(lines, "1234", "2026-11-26", "12:56:00", RELEASE, "rollback,", "forced", "12.5%")
    assert any(f"{pointer.updated_by}: {pointer.reason}" in line for line in lines)


def test_pods_have_a_line_each_with_their_load_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pod = GetServingReleaseResponse(
        channel="production",
        release_id=RELEASE,
        origin="cache",
        loading=ReleaseLoad(stage=LOAD_STAGE_DOWNLOADING, bytes_total=7_000_000, release_id=OTHER),
        last_failure="the store can't be reached",
    )
    print_pods({"candidate-canary-1": pod, "ranking-1": None}, {"production": RELEASE})
    lines = lines_of(capsys)
    line_with(lines, "candidate-canary-1", "production", RELEASE, "cache")
    line_with(lines, "ranking-1", "doesn't", "answer")
    assert f"candidate-canary-1: downloading 0.0 of 7.0 MB of {OTHER}" in lines


def test_the_gate_has_a_line_for_each_measure(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts: tuple[Verdict, ...] = ("no worse", "better", "alike")
    measures = ("ndcg_10", "inference_p50", "fit_overlap_100")
    checks = tuple(
        Check(measure, 0.0312, 0.0328, 0.0016, 0.001, 0.002, 0.004, verdict)
        for measure, verdict in zip(measures, verdicts, strict=True)
    )
    result = GateResult("passed", checks, 2000, false_refusals=0.0123)
    print_gate(result, RELEASE, OTHER)
    lines = lines_of(capsys)
    line_with(lines, "ndcg_10", "0.0312", "0.0328", "+0.0016", "-0.0010", "-0.0040", "no", "worse")
    line_with(lines, "inference_p50", "0.0312", "0.0328", "+0.0016", "+0.0010", "+0.0040")
    line_with(lines, "fit_overlap_100", "0.0312")
    assert "an equal release would be refused in at most 1.2% of cases" in lines
    [note] = [line for line in lines if line.startswith("note: with 2,000 viewers")]
    assert "ndcg_10 12.8% (3.2%)" in note


def test_a_slate_has_its_ids_and_scores_whole(capsys: pytest.CaptureFixture[str]) -> None:
    item = recommendation_pb2.SlateItem(
        video_id="a-video-id-of-some-length",
        title="Star Wars: Episode IV - A New Hope, the Extended Special Edition",
        score=0.123456,
        position=1,
        sources=list(viewer_pb2.Source.values())[1:],
    )
    print_slate(recommendation_pb2.RecommendResponse(items=[item], release_id=RELEASE))
    lines = lines_of(capsys)
    assert any(" a-video-id-of-some-length  0.1235 " in line for line in lines)


def test_a_name_longer_than_the_terminal_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("name", "why", texts={"why"})
    table.add_row("n" * 100, "it is so")
    print_table(table)
    assert "n" * 100 in capsys.readouterr().out
