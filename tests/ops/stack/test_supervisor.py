"""The supervisor over real child processes."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.builders.waiting import until
from vireo.ops.stack import logs, supervisor
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.state import ProcessState
from vireo.ops.stack.supervisor import Supervisor
from vireo.server.errors import VireoError


def python(name: str, script: str, healthy_when: Path | None = None) -> ProcessSpec:
    """A process that runs `script`; healthy once the file exists."""

    async def probe() -> str:
        return "" if is_healthy() else "no file yet"

    def is_healthy() -> bool:
        return healthy_when is None or healthy_when.exists()

    return ProcessSpec(name, [sys.executable, "-c", script], 0, probe)


def sleeping(name: str, folder: Path, first: str = "", seconds: float = 600) -> ProcessSpec:
    """A process that does something, is healthy as soon as it has, and then sleeps."""
    file = folder / f"{name}.healthy"
    touch = f"import pathlib, time; pathlib.Path({str(file)!r}).touch(); time.sleep({seconds})"
    return python(name, f"{first}\n{touch}", file)


def stubborn(folder: Path) -> ProcessSpec:
    """A process that ignores the request to end."""
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    return sleeping("stubborn", folder, ignore)


class Watched:
    """A supervisor and how its processes have been."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(folder / "logs", self._note)
        self.history: list[list[ProcessState]] = []
        self._news = asyncio.Event()

    def _note(self) -> None:
        self.history.append(self.supervisor.statuses)
        self._news.set()

    async def until(self, holds: Callable[[ProcessState], bool], name: str) -> ProcessState:
        """The first status of a process for which `holds`."""
        async with asyncio.timeout(60):
            while True:
                for status in self.supervisor.statuses:
                    if status.name == name and holds(status):
                        return status
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    it = Watched(folder)
    try:
        yield it
    finally:
        await it.supervisor.stop(5)


async def test_start_returns_once_all_are_healthy_and_stop_ends_them(tmp_path: Path) -> None:
    async with watched(tmp_path) as it:
        await it.supervisor.start([sleeping("a", tmp_path), sleeping("b", tmp_path)], 30)
        statuses = it.supervisor.statuses
        assert [(status.name, status.state) for status in statuses] == [
            ("a", "healthy"),
            ("b", "healthy"),
        ]
    assert not any(psutil.pid_exists(status.pid or 0) for status in statuses)
    stopped = it.supervisor.statuses
    assert {(status.state, status.restarts) for status in stopped} == {("stopped", 0)}


async def test_a_crashed_process_is_restarted_with_backoff(tmp_path: Path) -> None:
    async with watched(tmp_path) as it:
        await it.supervisor.start([sleeping("a", tmp_path)], 30)
        for restarts in (1, 2):
            pid = it.supervisor.statuses[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            crashed = await it.until(lambda status: status.state == "restarting", "a")
            assert (crashed.pid, crashed.problem) == (None, "ended with signal SIGKILL")
            back = await it.until(lambda status: status.state == "healthy", "a")
            assert back.restarts == restarts
            assert back.pid != pid


async def test_a_process_that_ends_at_start_is_named_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    script = "import sys; print('first'); print('no such model', file=sys.stderr); sys.exit(3)"
    async with watched(tmp_path) as it:
        with pytest.raises(VireoError, match="broken ended with exit code 3") as raised:
            await it.supervisor.start(
                [sleeping("fine", tmp_path), python("broken", script, tmp_path / "never")], 30
            )
        assert "no such model" in str(raised.value)
        assert str(tmp_path / "logs" / "broken.log") in str(raised.value)


async def test_processes_that_are_late_go_on_starting_and_are_started_again_if_they_end(
    tmp_path: Path,
) -> None:
    """Otherwise a machine that is slow at its start would stay without a stack."""
    here = tmp_path / "here"
    slow = python("slow", "import time; time.sleep(600)", here)
    ends = f"""
import pathlib, time
while not pathlib.Path({str(tmp_path / "late")!r}).exists():
    time.sleep(0.01)
if not pathlib.Path({str(here)!r}).exists():
    raise SystemExit(3)
time.sleep(600)
"""
    async with watched(tmp_path) as it:
        starting = asyncio.ensure_future(
            it.supervisor.start([slow, python("ending", ends, here)], 0.5)
        )
        late = await it.until(lambda status: status.state == "unhealthy", "slow")
        assert "no file yet" in late.problem
        (tmp_path / "late").touch()
        await it.until(lambda status: status.restarts > 1, "ending")
        assert not starting.done()
        here.touch()
        await asyncio.wait_for(starting, 60)
        assert {status.state for status in it.supervisor.statuses} == {"healthy"}


async def test_a_process_that_is_started_again_gets_the_settings_of_now(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    settings = {"OLD": "1"}
    it.supervisor = Supervisor(
        tmp_path, it._note, lambda spec: replace(spec, environment={**settings})
    )
    await it.supervisor.start([sleeping("a", tmp_path)], 30)
    settings = {"NEW": "1"}
    os.kill(it.supervisor.statuses[0].pid or 0, signal.SIGTERM)
    back = await it.until(lambda status: status.restarts == 1 and status.state == "healthy", "a")
    assert "NEW" in psutil.Process(back.pid).environ()
    await it.supervisor.stop(5)


async def test_a_process_that_is_not_awaited_holds_nothing_up_and_is_tried_again(
    tmp_path: Path,
) -> None:
    failing = python("aside", "import sys; sys.exit(3)", tmp_path / "never")
    async with watched(tmp_path) as it:
        specs = [sleeping("a", tmp_path), replace(failing, awaited=False)]
        await it.supervisor.start(specs, 30)
        await it.until(lambda status: status.restarts > 1, "aside")


async def test_a_failed_probe_is_reported_and_repeated(tmp_path: Path) -> None:
    asked = 0

    async def probe() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("too many open files")
        return ""

    spec = replace(sleeping("a", tmp_path), probe=probe)
    async with watched(tmp_path) as it:
        starting = asyncio.ensure_future(it.supervisor.start([spec], 30))
        failing = await it.until(lambda status: "its probe failed" in status.problem, "a")
        assert "too many open files" in failing.problem
        await starting
        assert it.supervisor.statuses[0].state == "healthy"


async def test_a_process_that_stays_unhealthy_is_started_again_if_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HEALTHY_POLL", 0.1)
    patient = sleeping("patient", tmp_path)
    hasty = replace(sleeping("hasty", tmp_path), max_unhealthy_seconds=0.5)
    async with watched(tmp_path) as it:
        await it.supervisor.start([patient, hasty], 30)
        for name in ("patient", "hasty"):
            (tmp_path / f"{name}.healthy").unlink()
        await it.until(lambda status: status.restarts == 1 and status.state == "healthy", "hasty")
        left = await it.until(lambda status: status.state == "unhealthy", "patient")
        assert left.restarts == 0


async def test_an_unhealthy_process_that_ignores_the_request_to_end_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HEALTHY_POLL", 0.1)
    monkeypatch.setattr(supervisor, "_KILL_SECONDS", 0.2)
    async with watched(tmp_path) as it:
        await it.supervisor.start([replace(stubborn(tmp_path), max_unhealthy_seconds=0.2)], 30)
        (tmp_path / "stubborn.healthy").unlink()
        ended = await it.until(lambda status: status.state == "restarting", "stubborn")
        assert ended.problem == "ended with signal SIGKILL"
        await it.until(lambda status: status.state == "healthy", "stubborn")
        it.supervisor.kill()


async def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    await it.supervisor.start([stubborn(tmp_path)], 30)
    pid = it.supervisor.statuses[0].pid
    await it.supervisor.stop(0.2)
    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_a_process_that_waits_for_its_restart_is_stopped_at_once(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    # Ends by itself a moment after it was healthy: soon it is waiting most of the time.
    await it.supervisor.start([sleeping("brief", tmp_path, seconds=0.3)], 30)
    await it.until(lambda status: status.state == "restarting" and status.restarts > 2, "brief")
    started = len(it.history)
    await it.supervisor.stop(60)
    assert it.supervisor.statuses[0].state == "stopped"
    assert all(statuses[0].state != "starting" for statuses in it.history[started:])


async def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for _ in range(2):
        async with watched(tmp_path) as it:
            (tmp_path / "a.healthy").unlink(missing_ok=True)
            first = "import os; print(os.getpid(), flush=True)"
            await it.supervisor.start([sleeping("a", tmp_path, first)], 30)
    assert len((folder / "a.log").read_text().splitlines()) == 1
    assert len((folder / "a.log.1").read_text().splitlines()) == 1
    assert (folder / "a.log").read_text() != (folder / "a.log.1").read_text()


def test_children_die_with_a_supervisor_that_is_killed() -> None:
    script = """
import subprocess, sys, time
from vireo.ops.stack.die_with_parent import wrapped
child = subprocess.Popen(wrapped(["sleep", "600"]), start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_a_process_that_logs_without_end_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10_000)
    monkeypatch.setattr(supervisor, "_HEALTHY_POLL", 3600.0)  # logs are bounded between probes
    # It waits for the supervisor once its log is too large, so that no machine is too slow.
    script = """
import os, time, pathlib
log = os.readlink("/proc/self/fd/1")
for number in range(1_000_000):
    print(f"line {number:09}", flush=True)
    if number % 1000 == 999:
        while os.path.getsize(log) > 10_000:
            time.sleep(0.01)
"""
    path = tmp_path / "logs" / "a.log"
    async with watched(tmp_path) as it:
        await it.supervisor.start([python("a", script)], 30)
        older = [path, *(logs.numbered(path, number) for number in (1, 2))]
        await until(lambda: older[-1].exists() and path.stat().st_size > 0, seconds=60)
        assert not logs.numbered(path, 3).exists()
        texts = [each.read_text() for each in older]
    for text in texts:
        assert len(text) < 50_000
        assert "\0" not in text, "the process went on at its old offset"
    first, second = (int(text.split()[1]) for text in texts[1:])
    assert second < first


def test_on_a_full_disk_a_log_is_emptied_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_text("a part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10)
    monkeypatch.setattr(shutil, "copyfile", full)
    log = tmp_path / "a.log"
    log.write_text("more than ten bytes")
    logs.bound_log(log)
    assert log.read_text() == ""
    assert list(tmp_path.iterdir()) == [log]
