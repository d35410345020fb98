"""The pods as processes, each with the real S3 server."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.builders.columns import score_columns
from tests.builders.faulty_s3 import faulty_s3
from tests.builders.http2 import grpc_frame, http2
from tests.builders.process import (
    health_of,
    start,
    wait_for_health,
    wait_for_status,
    watched_channel,
)
from tests.builders.s3 import unreachable_s3
from vireo.server.features.keys import video_keys
from vireo.server.releases.s3 import S3Settings
from vireo.v1 import candidate_pb2, ranking_pb2, release_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2_grpc import ReleaseServiceStub
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

pytestmark = pytest.mark.integration
MODULES = ("vireo.server.candidate", "vireo.server.ranking")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("module", MODULES)
def test_process_serves_its_channel_and_drains_on_sigterm(
    module: str,
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    # For as long as it can be seen to drain.
    settings = {**environment, "VIREO_DRAIN_SECONDS": "2"}
    process = start(module, log, settings, "--port", str(port), "--pod-name", "pod-7")
    processes.append(process)
    with watched_channel(port) as channel:
        health = health_of(channel)
        wait_for_status(health, SERVING)
        state = ReleaseServiceStub(channel).GetServingRelease(
            release_pb2.GetServingReleaseRequest()
        )
        assert (state.release_id, state.channel, state.origin, state.pod) == (
            "of-processes",
            "processes",
            "s3",
            "pod-7",
        )
        assert state.state == release_pb2.RELEASE_STATE_SERVING
        assert state.serving_since.seconds > 0
        process.send_signal(signal.SIGTERM)
        wait_for_status(health, NOT_SERVING)
    assert process.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines]
    served = ["starting", "listening", "serving release", "stopping", "draining", "stopped"]
    assert events == served
    assert {line["pod"] for line in lines} == {"pod-7"}
    assert environment["VIREO_S3_SECRET_KEY"] not in log.read_text()
    assert lines[0]["settings"]["s3"]["secret_key"] == "**********"


def test_candidates_then_ranking_make_a_slate(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    ports = [port, port + 1]
    for module, each in zip(MODULES, ports, strict=True):
        processes.append(start(module, tmp_path / module, environment, "--port", str(each)))
    watched = video_keys(["video-3", "video-4"]).tolist()
    viewer = ViewerFeatures(
        history_keys=watched, history_times=[1, 2], watched_keys=watched, watch_count=2
    )
    with watched_channel(ports[0]) as candidate, watched_channel(ports[1]) as ranking:
        wait_for_health(candidate, SERVING)
        wait_for_health(ranking, SERVING)
        found = CandidateServiceStub(candidate).RetrieveCandidates(
            candidate_pb2.RetrieveCandidatesRequest(viewer=viewer, count=30, page_size=5)
        )
        assert len(found.keys) == 30
        assert len(found.ids) == 5
        assert not {"video-3", "video-4"} & set(found.ids)
        assert [source.failure for source in found.sources] == [""] * 5
        unknown_key = 12345
        ranked = RankingServiceStub(ranking).RankCandidates(
            ranking_pb2.RankCandidatesRequest(
                viewer=viewer,
                keys=[*found.keys, unknown_key],
                scores=[
                    ScoreColumn(name=each.name, values=[*each.values, 1]) for each in found.scores
                ],
                source_masks=[*found.source_masks, 2],
                page_size=31,
                titles=True,
            )
        )
        with pytest.raises(grpc.RpcError) as caught:
            CandidateServiceStub(candidate).RetrieveCandidates(
                candidate_pb2.RetrieveCandidatesRequest(
                    viewer=viewer, count=5, seed_key=unknown_key
                )
            )
    assert found.release_id == ranked.release_id == "of-processes"
    assert set(ranked.keys) == {*found.keys, unknown_key}
    assert list(ranked.scores) == sorted(ranked.scores, reverse=True)
    assert ranked.unknown_candidates == 1
    assert ranked.ids[-1] == ranked.titles[-1] == ""
    assert ranked.titles[0] == f"Title of {ranked.ids[0]}"
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_process_without_s3_serves_from_the_cache_of_one_before(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    first = start("vireo.server.ranking", tmp_path / "first", environment, "--port", str(port))
    processes.append(first)
    with watched_channel(port) as channel:
        wait_for_health(channel, SERVING)
    first.terminate()
    assert first.wait(60) == 0
    without_s3 = {**environment, **unreachable_s3().environment()}
    processes.append(
        start("vireo.server.ranking", tmp_path / "log", without_s3, "--port", str(port))
    )
    with watched_channel(port) as channel:
        wait_for_health(channel, SERVING)
        state = ReleaseServiceStub(channel).GetServingRelease(
            release_pb2.GetServingReleaseRequest()
        )
    assert (state.release_id, state.origin) == ("of-processes", "cache")
    assert "can't be reached" in state.last_failure


def test_process_without_s3_and_cache_says_why_and_recovers_by_itself(
    environment: dict[str, str],
    s3: S3Settings,
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    later = port + 1
    settings = {
        **environment,
        "VIREO_S3_ENDPOINT": f"127.0.0.1:{later}",
        "VIREO_CACHE": str(tmp_path / "cache"),
    }
    processes.append(start("vireo.server.ranking", tmp_path / "log", settings, "--port", str(port)))
    with watched_channel(port) as channel:
        stub = ReleaseServiceStub(channel)

        def state() -> release_pb2.GetServingReleaseResponse:
            request = release_pb2.GetServingReleaseRequest()
            return stub.GetServingRelease(request, timeout=30, wait_for_ready=True)

        deadline = time.monotonic() + 60
        while not (found := state()).last_failure and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found.state == release_pb2.RELEASE_STATE_LOADING
        assert f"S3 at 127.0.0.1:{later} can't be reached" in found.last_failure
        wait_for_health(channel, NOT_SERVING)
        with faulty_s3(s3, port=later):  # without a fault
            wait_for_health(channel, SERVING)
            assert state().release_id == "of-processes"


def test_process_shows_its_release_to_prometheus(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    metrics = port + 1
    shown = {**environment, "VIREO_METRICS_PORT": str(metrics)}
    process = start("vireo.server.candidate", tmp_path / "log", shown, "--port", str(port))
    processes.append(process)
    with watched_channel(port) as channel:
        wait_for_health(channel, SERVING)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    assert (
        'vireo_release_info{channel="processes",origin="s3",release="of-processes",role="serving"}'
        " 1.0"
    ) in page
    assert 'vireo_release_load_stage{stage="serving"}' in page
    process.terminate()
    assert process.wait(60) == 0


def test_a_process_that_stops_answers_until_it_refuses_and_then_exits(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    settings = {**environment, "VIREO_DRAIN_SECONDS": "4"}
    process = start("vireo.server.ranking", tmp_path / "log", settings, "--port", str(port))
    processes.append(process)
    keys = video_keys([f"video-{number}" for number in range(40)]).tolist()
    request = ranking_pb2.RankCandidatesRequest(
        viewer=ViewerFeatures(),
        keys=keys,
        scores=score_columns([0.5] * 40),
        source_masks=[2] * 40,
        page_size=10,
    )
    with watched_channel(port) as channel:
        health = health_of(channel)
        wait_for_status(health, SERVING)
        stub = RankingServiceStub(channel)
        stub.RankCandidates(request, timeout=30)
        process.send_signal(signal.SIGTERM)
        wait_for_status(health, NOT_SERVING)
        answered = 0
        with pytest.raises(grpc.RpcError) as caught:  # noqa: PT012 (one call too many)
            while True:
                stub.RankCandidates(request, timeout=30)
                answered += 1
    # The latter where it came as gRPC's server stopped; Envoy repeats both (envoy/shared.yaml).
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert answered > 0
    assert process.wait(60) == 0


def test_second_signal_ends_the_process_at_once(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    slow = {**environment, "VIREO_DRAIN_SECONDS": "600"}
    process = start("vireo.server.ranking", tmp_path / "log", slow, "--port", str(port))
    processes.append(process)
    with watched_channel(port) as channel:
        health = health_of(channel)
        wait_for_status(health, SERVING)
        process.send_signal(signal.SIGTERM)
        wait_for_status(health, NOT_SERVING)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]


def test_bad_settings_end_the_process_with_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = start("vireo.server.candidate", tmp_path / "log", environment, "--port", "many")
    assert process.wait(60) == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("error: bad settings: VIREO_PORT or --port: Input should be")


def test_port_that_is_taken_ends_the_process_with_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        process = start("vireo.server.candidate", tmp_path / "log", environment, "--port", number)
        assert process.wait(60) == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"error: can't listen on 127.0.0.1:{number}: the port is taken")


@pytest.mark.parametrize("module", MODULES)
def test_pods_import_nothing_of_training(module: str) -> None:
    script = (
        f"import sys, {module}.__main__; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(ran.stdout.split())
    assert "onnxruntime" in imported
    assert not imported & {"torch", "pandas", "feast", "pyarrow", "scipy", "onnx", "training"}


async def test_a_process_that_accepts_no_calls_exits_to_be_restarted(
    environment: dict[str, str],
    processes: list[subprocess.Popen[bytes]],
    port: int,
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    process = start("vireo.server.candidate", log, environment, "--port", str(port))
    processes.append(process)
    with watched_channel(port) as channel:
        wait_for_status(health_of(channel), SERVING)
    async with http2(f"127.0.0.1:{port}") as connection:
        # Latin-1, and so no UTF-8: gRPC's loop ends of it.
        connection.open("/grpc.health.v1.Health/Check?\xe9", grpc_frame(b""))
        assert await asyncio.to_thread(process.wait, 60) == 1
    assert "gRPC accepts no more calls" in log.read_text()
