"""Serving installs and runs without torch, is upgraded as it runs, and its pods start fast."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from tests.acceptance.conftest import CHECKOUT
from tests.builders.asking import asking
from tests.builders.environments import build_wheel, new_environment, replace_wheel
from tests.builders.process import wait_for_health, watched_channel
from tests.builders.stack import Stack, running_stack
from tests.builders.waiting import wait_until
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

LIBRARIES = {
    "candidate-1": ("import faiss, grpc, minio, onnxruntime", 5),
    "ranking-1": ("import grpc, minio, onnxruntime", 5),
    "gateway-1": ("import grpc, minio, nats, numpy", 6),
}
"""The libraries that a process can't do without, and how many times as long as to import them its
start may take: about twice what it does."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's folder of programs, with the serving part of the commit before."""
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", "HEAD~1"], cwd=CHECKOUT, capture_output=True)
    if archive.returncode:
        pytest.skip("there is no commit before this one")
    checkout = folder / "checkout"
    checkout.mkdir()
    subprocess.run(["tar", "-x"], cwd=checkout, input=archive.stdout, check=True)
    wheel = build_wheel(checkout, folder / "wheel")
    return new_environment(folder / "environment", f"vireo[stack] @ {wheel.as_uri()}").parent


@pytest.fixture(scope="module")
def serving(
    before: Path, demo_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The demo's release, published and served outside the checkout; then a wheel replaces another.

    Meanwhile no slate is lost.
    """
    home = Home(tmp_path_factory.mktemp("serving-home"))
    for folder in (home.features, home.staged_release):
        shutil.copytree(
            demo_home.root / folder("ml-100k").relative_to(home.root), folder("ml-100k")
        )
    wheel = build_wheel(CHECKOUT, tmp_path_factory.mktemp("wheel"))
    with running_stack(
        home.root,
        prepare="vireo release publish --data ml-100k",
        folder=home.root,
        programs=before,
    ) as stack:
        with grpc.insecure_channel(stack.edge) as channel:
            stub = RecommendationServiceStub(channel)
            request = pb.RecommendRequest(viewer_id="1", page_size=10)
            with asking(lambda: stub.Recommend(request, timeout=20)) as counts:
                replace_wheel(before / "python", wheel, "stack")
                subprocess.run(
                    [before / "vireo", "restart"], env=stack.environment, cwd=home.root, check=True
                )
        assert counts.keys() == {"slates"}, "none was degraded"
        yield stack


@pytest.fixture(scope="module")
def environment(serving: Stack, before: Path) -> Path:
    """The folder of programs after the upgrade."""
    return before


def run(environment: Path, code: str) -> str:
    """What Python of the environment prints of `code`."""
    command = [str(environment / "python"), "-c", code]
    done = subprocess.run(command, cwd=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_of_training_is_installed(environment: Path) -> None:
    modules = ("torch", "onnx", "scipy")
    code = f"from importlib.util import find_spec; print(*filter(find_spec, {modules}))"
    assert run(environment, code) == ""


def test_stubs_are_importable_by_the_names_that_the_readme_has(environment: Path) -> None:
    code = "from vireo.v1 import recommendation_pb2 as it; print(it.RecommendRequest(page_size=1))"
    assert run(environment, code) == "page_size: 1"


def test_the_wheel_claims_one_top_level_name_and_works_beside_envoys_protos(
    environment: Path,
) -> None:
    code = "from importlib.metadata import files; print(*files('vireo'), sep='\\n')"
    tops = {path.partition("/")[0] for path in run(environment, code).splitlines()}
    assert {top.partition("-")[0] for top in tops} == {"..", "vireo"}, "`..` is for its program"
    code = "import envoy.config.core.v3.base_pb2, vireo.server.home; import server"
    with pytest.raises(AssertionError, match="No module named 'server'"):
        run(environment, code)


def test_a_full_slate_is_served(serving: Stack, environment: Path) -> None:
    done = subprocess.run(
        [environment / "vireo", "recommend", "1", "--json"],
        env=serving.environment,
        cwd=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["items"]) == 10
    assert "degradations" not in answer


@pytest.mark.parametrize("name", ["candidate-1", "ranking-1"])
def test_candidate_and_ranking_pods_have_loaded_no_torch_pandas_or_arrow(
    serving: Stack, name: str
) -> None:
    loaded = Path(f"/proc/{serving.pid(name)}/maps").read_text()
    assert "onnxruntime" in loaded, "this is the process that answers"
    for library in ("torch", "pandas", "pyarrow", "feast", "cryptography"):
        assert f"/{library}/" not in loaded, library


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_pod_starts_little_slower_than_its_libraries_import(
    serving: Stack, environment: Path, name: str
) -> None:
    libraries, times = LIBRARIES[name]
    [port] = [each.port for each in serving.state().processes if each.name == name]
    killed = serving.pid(name)

    def pid() -> int | None:
        [found] = [each.pid for each in serving.state().processes if each.name == name]
        return found

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pid() not in (None, killed))
    process = psutil.Process(pid())
    with watched_channel(port) as channel:
        wait_for_health(channel, health_pb2.HealthCheckResponse.SERVING)
    spent = process.cpu_times()
    code = f"{libraries}; import os; spent = os.times(); print(spent.user + spent.system)"
    # Of the processor's time, and in times of what the machine takes for the least of it.
    seconds, least = spent.user + spent.system, float(run(environment, code))
    assert seconds < times * least, f"{name} took {seconds:.2f} s, its libraries {least:.2f}"
