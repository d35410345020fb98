"""Locks, ports, logs and state of a stack, and servers that last as long as a command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.builders.waiting import wait_until
from vireo.ops.stack import ports
from vireo.ops.stack.logs import last_lines
from vireo.ops.stack.nats import embedded_log
from vireo.ops.stack.ports import temporary_server
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import StackState, running_stack, stack_lock
from vireo.server.errors import VireoError
from vireo.server.file_lock import LockTakenError, file_lock, holder
from vireo.server.home import Home


def test_a_lock_has_one_holder_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    assert holder(path) is None
    with file_lock(path):
        assert holder(path) == os.getpid()
        with pytest.raises(LockTakenError) as raised, file_lock(path):
            pass
        assert raised.value.holder == os.getpid()
    assert holder(path) is None
    with file_lock(path):
        pass


def test_a_lock_is_free_once_its_process_has_been_killed(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from vireo.server.file_lock import file_lock
with file_lock(pathlib.Path({str(tmp_path / "lock")!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    assert holder(tmp_path / "lock") == process.pid
    process.kill()
    process.wait()
    assert holder(tmp_path / "lock") is None


def test_a_lock_file_that_was_made_open_to_all_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    path.chmod(0o644)
    with file_lock(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_end_of_a_log_has_no_blank_lines_and_may_be_missing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log, 3) == ""
    log.write_bytes(b"x" * 100_000 + b"\n\none\n\n \ntw\xff\n")
    assert last_lines(log, 2) == "one\ntw\N{REPLACEMENT CHARACTER}"


def test_a_state_file_that_cannot_be_written_ends_no_stack(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file where the folder should be")
    states: list[StackState] = []
    stack = Stack(StackSettings(home=tmp_path), states.append, states.append)
    stack._write_state()  # as the supervisor does on each change
    assert len(states) == 1


def test_a_running_stack_of_another_build_is_told_from_none(tmp_path: Path) -> None:
    home, state = Home(tmp_path), tmp_path / "stack/stack.json"
    with file_lock(stack_lock(home)):
        state.write_text(f'{{"pid": {os.getpid()}, "of": "another build"}}')
        with pytest.raises(VireoError, match=rf"process {os.getpid()}.*use the build that started"):
            running_stack(home)
        state.write_text('{"pid": 1, "of": "a stack that ended"}')
        assert running_stack(home) is None
        state.write_text("")
        assert running_stack(home) is None
    assert running_stack(home) is None


def test_a_server_that_ends_is_reported_with_what_it_wrote_last(tmp_path: Path) -> None:
    command, log = ["sh", "-c", "echo the disk is full >&2; exit 3"], tmp_path / "logs" / "x.log"
    with (
        pytest.raises(VireoError, match=f"sh ended with code 3; see {log}: the disk is full"),
        temporary_server(command, log, lambda: "no answer", os.environ),
    ):
        pytest.fail("it isn't ready")


def test_a_server_that_does_not_end_in_time_is_killed_with_all_that_it_has_started(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "trap '' TERM; sleep 600 & echo up; while true; do sleep 0.1; done"]

    def problem() -> str:
        return "" if "up" in log.read_text() else "no"

    with temporary_server(command, log, problem, os.environ, stop_seconds=0.1) as pid:
        [started] = (
            each for each in psutil.Process(pid).children() if each.cmdline() == ["sleep", "600"]
        )
    assert not psutil.pid_exists(pid)
    with suppress(psutil.NoSuchProcess):
        wait_until(lambda: started.status() == psutil.STATUS_ZOMBIE)


def test_ports_that_were_bound_are_kept_for_a_server_that_restarts() -> None:
    used, unused = ports.free_port_base(), ports.free_port_base()
    with socket.socket() as server:
        server.bind(("127.0.0.1", used + 1))
        server.listen()
        for _ in range(ports._RESERVATIONS):
            ports.free_port_base()
    assert not ports._reserved(used)
    assert unused not in ports._reservations


def test_no_base_is_free_that_has_a_port_of_a_stack_with_the_default_ones() -> None:
    last_of_s3 = max(ports._ports(8100, 8080))
    assert not ports._looks_free(last_of_s3 - last_of_s3 % 100)


def test_a_base_is_free_whatever_port_envoys_admin_interface_has_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        for port in (elsewhere.getsockname()[1], 8080):
            monkeypatch.setenv("VIREO_ADMIN_PORT", str(port))
            assert ports.free_port_base()


def test_no_base_is_free_whose_ports_are_for_the_metrics_of_another_or_the_reverse() -> None:
    base = ports.free_port_base()
    assert not ports._reserved(base + METRICS_PORT_OFFSET)
    assert not ports._reserved(base - METRICS_PORT_OFFSET)


def test_a_second_command_at_the_same_time_is_told_of_the_first(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path)
    with (
        file_lock(stack_lock(settings.home_folder)),
        pytest.raises(VireoError, match=r"process \d+ holds .*; try again once it has ended"),
        embedded_log(settings),
    ):
        pytest.fail("it isn't its own")
