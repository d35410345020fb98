from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

import server
from bench.speed.flame import flame_graph
from bench.speed.native import Native, Share, library_of, sampled_natively
from bench.speed.profile import ProfilePlan, measure_profile
from bench.speed.report import write_profiles
from bench.speed.stacks import Stacks, sampled
from server.errors import VireoError
from tests.builders.tiny_home import DATASET, build_tiny_home

RANK = f"rank ({Path(server.__file__).parent}/ranking/pipeline.py:61)"
RUN = "Session.run (/x/lib/python3.11/site-packages/onnxruntime/session.py:9)"
COLLAPSED = f"""\
thread (41): MainThread;<module> (/x/lib/python3.11/runpy.py:1) 10
thread (42): model_0;{RANK};{RUN} 60
thread (42): model_0;{RANK};{RANK} 29
thread (42): model_0;{RANK};seldom (/x/lib/python3.11/json.py:2) 1
"""
USED = {41: 0.1, 42: 0.9, 43: 5.0}
PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
needs_ptrace = pytest.mark.skipif(
    os.geteuid() != 0 and PTRACE.exists() and PTRACE.read_text().strip() != "0",
    reason="py-spy may not read other processes here",
)
needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing: make h2load"
)


def test_a_function_has_a_share_of_the_time_with_what_it_calls_and_without() -> None:
    rank, run, *_ = Stacks.parse(COLLAPSED, USED).functions()
    assert (rank.name, rank.where, rank.ours) == ("rank", "server/ranking/pipeline.py:61", True)
    assert (rank.whole, rank.own) == pytest.approx((0.9, 0.29))
    assert (run.where, run.ours) == ("onnxruntime/session.py:9", False)
    assert (run.whole, run.own) == pytest.approx((0.6, 0.6))


def test_a_thread_that_only_waited_for_a_core_has_no_time() -> None:
    rank, *_ = Stacks.parse(COLLAPSED, {41: 0.0, 42: 0.3}).functions()
    assert rank.whole == pytest.approx(1.0)


def test_threads_go_by_their_names() -> None:
    stacks = Stacks.parse(COLLAPSED, USED)
    assert stacks.threads == {41: "MainThread", 42: "model_0"}
    assert stacks.samples == 100


def test_what_is_not_a_stack_is_refused() -> None:
    with pytest.raises(VireoError, match="begins with no thread"):
        Stacks.parse("main (a.py:1) 3", {})


def test_a_flame_graph_leaves_out_what_hardly_runs() -> None:
    stacks = Stacks.parse(COLLAPSED.replace("29", "2900"), USED)
    drawn = flame_graph(stacks, "a <b>")
    titles = [
        each.text or "" for each in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")
    ]
    assert titles[0] == "a <b>: 100.0%"
    assert "rank (server/ranking/pipeline.py:61): 90.0%" in titles
    assert not any(each.startswith("seldom") for each in titles)


def test_samples_of_machine_code_are_shared_out_by_library() -> None:
    script = (
        "    7ff0e4 MlasGemm (/v/site-packages/onnxruntime/capi/ort.so)\n"
        "    7ff0e5 [unknown] (/v/site-packages/onnxruntime/capi/ort.so)\n"
        "    7ff0e6 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)\n"
        "  ffffffff a::b(int, c) ([kernel.kallsyms])\n"
    )
    native = Native.parse(script)
    assert native.samples == 4
    assert native.libraries[0] == Share("ONNX Runtime", 0.5)
    assert Share("a::b(int, c) (kernel)", 0.25) in native.symbols
    assert not any("unknown" in each.name for each in native.symbols)


@pytest.mark.parametrize(
    ("file", "library"),
    [
        ("[kernel.kallsyms]", "kernel"),
        ("/usr/bin/python3.11", "Python interpreter"),
        ("/usr/lib/python3.11/lib-dynload/_asyncio.cpython-311.so", "Python interpreter"),
        ("/v/site-packages/grpc/_cython/cygrpc.cpython-311.so", "gRPC core"),
        ("/v/site-packages/faiss_cpu.libs/libopenblas.so", "faiss"),
        ("/v/site-packages/numpy.libs/libscipy_openblas64.so", "numpy"),
        ("/v/site-packages/google/_upb/_message.abi3.so", "protobuf"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "C library"),
        ("/v/site-packages/xxhash/_xxhash.so", "xxhash"),
        ("/usr/lib/x86_64-linux-gnu/libsqlite3.so.0", "libsqlite3.so.0"),
    ],
)
def test_machine_code_belongs_to_the_library_of_its_file(file: str, library: str) -> None:
    assert library_of(file) == library


def test_where_perf_is_missing_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "perf is missing" in str(sampled_natively(1, 1, 1, tmp_path / "perf"))


def test_a_process_that_is_gone_cannot_be_sampled(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match="no process 4194304 to"):
        sampled(4194304, 1, 10, tmp_path / "stacks")


@needs_h2load
@needs_ptrace
@pytest.mark.integration
def test_each_service_is_sampled_under_load(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path / "home")
    plan = ProfilePlan(requests=64, seconds=2, native_seconds=1, viewers=1)
    profiles = measure_profile(home, DATASET, plan, Console(quiet=True))
    assert [each.service for each in profiles] == ["gateway", "candidate", "ranking"]
    for profile in profiles:
        assert profile.samples > 0
        assert any(f"server/{profile.service}/" in each.where for each in profile.ours)
        assert sum(each.share for each in profile.threads) == pytest.approx(1.0)
        assert (profile.native is None) == bool(profile.native_missing)
    write_profiles(profiles, tmp_path)
    page = (tmp_path / "profile.html").read_text()
    for profile in profiles:
        assert (tmp_path / f"{profile.service}.svg").stat().st_size < 300_000
        assert profile.flame in page
