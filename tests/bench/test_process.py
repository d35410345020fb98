from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.process import cpu_seconds, running
from vireo.server.errors import VireoError

BUSY = 0.5
CHILD = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True)"


def test_a_process_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", f"{CHILD}; time.sleep(60)"]
    with running(command, log, lambda: log.read_text() == "up\n", os.environ) as pid:
        [started] = psutil.Process(pid).children()
        assert cpu_seconds(pid) > 0
    assert not psutil.pid_exists(pid)
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while started.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_time_of_what_a_process_has_started_counts(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    busy = (
        f"import time\nwhile time.process_time() <= {BUSY} + 0.05: pass\n"
        "print('done', flush=True)\ntime.sleep(60)"
    )
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    command = [sys.executable, "-c", start]
    with running(command, log, lambda: log.read_text() == "done\n", os.environ) as pid:
        own = psutil.Process(pid).cpu_times()
        assert own.user + own.system < BUSY
        assert cpu_seconds(pid) > BUSY


def test_a_process_that_ends_at_once_is_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no')"]
    with (
        pytest.raises(VireoError, match=r"server did not start; see .*server\.log"),
        running(command, tmp_path / "server.log", lambda: False, os.environ),
    ):
        pass
    assert (tmp_path / "server.log").read_text() == "no\n"
