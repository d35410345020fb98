"""Who holds a lock, whether a port is free, and the end of a log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vireo.ops.stack.logs import last_lines
from vireo.ops.stack.ports import PortTakenError, check_ports_free
from vireo.server.file_lock import LockTakenError, file_lock, holder


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


def test_a_taken_port_is_reported_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} .*VIREO_THAT_PORT"):
            check_ports_free({port: "VIREO_THAT_PORT"})
    check_ports_free({port: "VIREO_THAT_PORT"})


def test_the_end_of_a_log_has_no_blank_lines_and_may_be_missing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log, 3) == ""
    log.write_bytes(b"x" * 100_000 + b"\n\none\n\n \ntw\xff\n")
    assert last_lines(log, 2) == "one\ntw\N{REPLACEMENT CHARACTER}"
