"""What the embedded log has on disk when it acknowledges: counted at the system calls."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vireo.ops.stack.nats import log_process, reachable_log
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS

MESSAGES = 20
GIB = 1 << 30


@contextmanager
def running(settings: StackSettings) -> Iterator[tuple[ProcessSpec, int]]:
    """Run the embedded log; yield what is run, and its process id."""
    spec = log_process(settings)
    process = subprocess.Popen(spec.command, stderr=subprocess.DEVNULL)
    try:
        yield spec, process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def traced(process: int, file: Path) -> Iterator[None]:
    """Write the server's system calls to a file."""
    names = "trace=pwrite64,write,fsync,fdatasync,writev"
    command = ["strace", "-f", "-y", "-e", names, "-o", str(file), "-p", str(process)]
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert tracing.stderr is not None
        assert b"attached" in tracing.stderr.readline()
        yield
    finally:
        tracing.send_signal(signal.SIGINT)
        tracing.wait()


def calls(file: Path) -> list[str]:
    """Return the server's writes and fsyncs of events, and its answers, in order."""
    found = []
    for line in file.read_text().splitlines():
        if ".blk>" in line and "vireo_events" in line:
            found.append("fsync" if "sync(" in line else "write")
        elif "writev(" in line and "<socket:" in line:
            found.append("answer")
    return found


def configuration(settings: StackSettings) -> dict[str, Any]:
    """Return JetStream's configuration, as the server says it has it."""
    url = f"http://127.0.0.1:{settings.log_port + METRICS_PORT_OFFSET}/varz"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)["jetstream"]["config"]
        return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs Debian's strace")
@pytest.mark.parametrize("durable", [True, False])
async def test_a_durable_log_has_each_message_on_disk_before_it_acknowledges_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    monkeypatch.delenv("VIREO_NATS_URL", raising=False)
    monkeypatch.setenv("VIREO_EVENT_MAX_BYTES", str(100 * GIB))
    base = free_port_base()
    settings = StackSettings(home=tmp_path, port_base=base, durable=durable)
    with running(settings) as (spec, process):
        async with asyncio.timeout(60):
            while await spec.probe():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        configured = await asyncio.to_thread(configuration, settings)
        assert configured.get("sync_always", False) is durable
        assert configured["max_storage"] > 100 * GIB, "the events that the settings allow fit"
        log = JetStreamLog(reachable_log(settings))
        await log.append(EVENTS, "0", b"first")
        with traced(process, tmp_path / "calls"):
            for number in range(MESSAGES):
                await log.append(EVENTS, "0", b"%d" % number)
        await log.close()
    found = calls(tmp_path / "calls")
    assert found.count("write") == MESSAGES
    assert found.count("fsync") == (MESSAGES if durable else 0)
    if durable:
        assert found[: 3 * MESSAGES] == ["write", "fsync", "answer"] * MESSAGES
