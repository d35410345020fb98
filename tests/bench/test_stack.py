from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

from bench.stack import cpu_seconds
from vireo.ops.stack.ports import temporary_server

BUSY = 0.5


def test_the_time_of_what_a_process_has_started_counts(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    busy = (
        f"import time\nwhile time.process_time() <= {BUSY} + 0.05: pass\n"
        "print('done', flush=True)\ntime.sleep(60)"
    )
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    command = [sys.executable, "-c", start]
    with temporary_server(
        command, log, lambda: "" if "done" in log.read_text() else "busy", os.environ
    ) as pid:
        own = psutil.Process(pid).cpu_times()
        assert own.user + own.system < BUSY
        assert cpu_seconds(pid) > BUSY
