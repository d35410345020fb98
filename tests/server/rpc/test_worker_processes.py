"""Pods of several worker processes, with the real S3 server."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2
from vireo.v1 import ranking_pb2, release_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

from server.features.keys import video_keys
from server.rpc.ports import PortTakenError, hold
from tests.builders.process import (
    health_of,
    start,
    wait_for_health,
    wait_for_status,
    watched_channel,
)
from tests.builders.s3 import unreachable_s3

pytestmark = pytest.mark.integration
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Processes = list[subprocess.Popen[bytes]]
SECONDS = 120


@pytest.fixture
def two(environment: dict[str, str], port: int) -> dict[str, str]:
    """Settings of a ranking pod of two worker processes."""
    return {
        **environment,
        "VIREO_WORKERS": "2",
        "VIREO_PORT": str(port),
        "VIREO_POD_NAME": "pod-7",
    }


def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)


def wait_for_workers(port: int, count: int = 2) -> None:
    """Returns once as many serve, each on its own port."""
    for number in range(1, count + 1):
        with watched_channel(port + number) as channel:
            wait_for_health(channel, SERVING)


@contextmanager
def connection(port: int) -> Iterator[grpc.Channel]:
    """One that is shared with no other channel of this process."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


def answering(port: int) -> str:
    """The name of the process that answers a new connection."""
    with connection(port) as channel:
        return name_behind(channel)


def name_behind(channel: grpc.Channel) -> str:
    """The name of the process at the other end."""
    request = release_pb2.GetServingReleaseRequest()
    return ReleaseServiceStub(channel).GetServingRelease(request, timeout=SECONDS).pod


def rank(channel: grpc.Channel) -> list[str]:
    """The ids of an answer, best first."""
    keys = video_keys([f"video-{number}" for number in range(10)]).tolist()
    request = ranking_pb2.RankCandidatesRequest(
        keys=keys,
        scores=[0.5] * 10,
        co_watch_scores=[0] * 10,
        ease_scores=[0] * 10,
        source_masks=[2] * 10,
        page_size=3,
    )
    request.viewer.SetInParent()
    return list(RankingServiceStub(channel).RankCandidates(request, timeout=SECONDS).ids)


def workers_of(pod: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """The worker processes of a pod, by their number."""
    return {
        json.loads(child.environ()["VIREO_WORKER_PLACE"])["number"]: child
        for child in psutil.Process(pod.pid).children()
    }


def lines_of(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def page(port: int) -> str:
    """What is told to Prometheus there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
        shown: str = answer.read().decode()
    return shown


def test_two_worker_processes_answer_on_one_port_and_each_on_its_own(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    processes.append(start("server.ranking", tmp_path / "log", two))
    wait_for_workers(port)
    assert [answering(port + 1), answering(port + 2)] == ["pod-7/1", "pod-7/2"]
    shared: set[str] = set()
    while len(shared) < 2:  # the kernel draws
        shared.add(answering(port))
    assert shared == {"pod-7/1", "pod-7/2"}
    with connection(port) as channel:
        assert len(rank(channel)) == 3
    assert {line["pod"] for line in lines_of(tmp_path / "log")} == {"pod-7", *shared}


def test_a_killed_worker_process_takes_no_other_calls_along_and_is_back(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    metrics = port + 10
    settings = {**two, "VIREO_METRICS_PORT": str(metrics)}
    pod = start("server.ranking", tmp_path / "log", settings)
    processes.append(pod)
    wait_for_workers(port)
    before = workers_of(pod)
    with connection(port + 2) as other:
        assert rank(other)
        before[1].kill()
        until(lambda: not before[1].is_running())
        # Whoever connects gets the other one, and never one that has nothing to serve yet.
        answered = 0
        while not listens(port + 1) or answered < 20:
            with connection(port) as channel:
                assert rank(channel)
            assert rank(other)
            answered += 1
    until(lambda: answering(port) == "pod-7/1")
    after = workers_of(pod)
    assert after[2] == before[2]
    assert after[1] != before[1]
    shown = page(metrics)
    assert "vireo_worker_restarts_total 1.0" in shown
    assert "vireo_workers_serving 2.0" in shown
    assert 'vireo_release_info{channel="processes"' in page(metrics + 1)
    again = [line for line in lines_of(tmp_path / "log") if "ended" in line]
    assert [(line["worker"], line["ended"]) for line in again] == [(1, "signal SIGKILL")]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_drains_all_worker_processes(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    settings = {**two, "VIREO_DRAIN_SECONDS": "4"}  # for as long as it can be seen
    pod = start("server.ranking", tmp_path / "log", settings)
    processes.append(pod)
    wait_for_workers(port)
    workers = workers_of(pod)
    with watched_channel(port + 1) as first, watched_channel(port + 2) as second:
        watches = [health_of(channel) for channel in (first, second)]
        for watch in watches:
            wait_for_status(watch, SERVING)
        pod.send_signal(signal.SIGTERM)
        for watch, channel in zip(watches, (first, second), strict=True):
            wait_for_status(watch, NOT_SERVING)
            assert rank(channel)
    assert pod.wait(SECONDS) == 0
    assert not any(worker.is_running() for worker in workers.values())
    for name in ("pod-7", "pod-7/1", "pod-7/2"):
        events = [line["event"] for line in lines_of(tmp_path / "log") if line["pod"] == name]
        assert (events[0], events[-1]) == (
            "worker processes" if name == "pod-7" else "starting",
            "stopped",
        )


def test_a_second_signal_ends_a_pod_of_worker_processes_at_once(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    pod = start("server.ranking", tmp_path / "log", {**two, "VIREO_DRAIN_SECONDS": "600"})
    processes.append(pod)
    wait_for_workers(port)
    workers = workers_of(pod)
    with watched_channel(port + 2) as channel:
        watch = health_of(channel)
        wait_for_status(watch, SERVING)
        pod.send_signal(signal.SIGTERM)
        wait_for_status(watch, NOT_SERVING)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(SECONDS) == 128 + signal.SIGTERM
    until(lambda: not any(worker.is_running() for worker in workers.values()))


def test_worker_processes_end_with_their_supervisor(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    pod = start("server.ranking", tmp_path / "log", two)
    processes.append(pod)
    wait_for_workers(port)
    workers = workers_of(pod)
    pod.kill()
    until(lambda: not any(worker.is_running() for worker in workers.values()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", port + 2))


@pytest.mark.parametrize("after", [0, 2])
def test_a_port_that_is_taken_is_told_as_by_a_pod_of_one_process(
    after: int, two: dict[str, str], port: int, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + after))
        taken.listen()
        process = start("server.ranking", tmp_path / "log", two)
        assert process.wait(SECONDS) == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"error: can't listen on 127.0.0.1:{port + after}: the port is taken")


def test_two_pods_of_worker_processes_do_not_share_a_port(port: int) -> None:
    with hold("127.0.0.1", port), pytest.raises(PortTakenError, match=str(port)):
        hold("127.0.0.1", port)
    with hold("127.0.0.1", port), socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with pytest.raises(PortTakenError, match=str(port)):
            hold("127.0.0.1", port)


def test_settings_that_do_not_fit_end_the_pod_once(
    two: dict[str, str], port: int, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        # The supervisor's metrics are shown a port before those of the first worker process.
        settings = {**two, "VIREO_METRICS_PORT": str(taken.getsockname()[1] - 1)}
        process = start("server.ranking", tmp_path / "log", settings)
        assert process.wait(SECONDS) == 1
    text = (tmp_path / "log").read_text()
    assert text.count("error: can't show metrics on") == 1
    assert "no worker process serves" in text


def test_a_pod_without_a_release_says_why_by_one_worker_process(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    settings = {
        **two,
        **unreachable_s3().environment(),
        "VIREO_CACHE": str(tmp_path / "cache"),
    }
    pod = start("server.ranking", tmp_path / "log", settings)
    processes.append(pod)
    request = release_pb2.GetServingReleaseRequest()
    with watched_channel(port) as channel:
        wait_for_health(channel, NOT_SERVING)
        stub = ReleaseServiceStub(channel)
        until(lambda: "can't be reached" in stub.GetServingRelease(request).last_failure)
    assert [*workers_of(pod)] == [1]
    pod.terminate()
    assert pod.wait(SECONDS) == 0


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes can't be kept to a core"
)
def test_a_pod_that_may_use_one_core_is_one_process(
    two: dict[str, str], processes: Processes, port: int, tmp_path: Path
) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # which the pod inherits
    try:
        pod = start("server.ranking", tmp_path / "log", {**two, "VIREO_WORKERS": "0"})
    finally:
        os.sched_setaffinity(0, allowed)
    processes.append(pod)
    with watched_channel(port) as channel:
        wait_for_health(channel, SERVING)
        assert name_behind(channel) == "pod-7"
    assert psutil.Process(pod.pid).children() == []


def test_ports_past_the_last_one_are_refused(two: dict[str, str], tmp_path: Path) -> None:
    process = start("server.ranking", tmp_path / "log", {**two, "VIREO_PORT": "65534"})
    assert process.wait(SECONDS) == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("error: 2 worker processes take the ports after VIREO_PORT")
