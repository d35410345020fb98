"""How many lines of one event reach the log, by a process of its own as pods log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.builders.clock import Clock
from vireo.server.rpc.logs import MAX_LINES, SUPPRESSED, LineLimit

OUTAGE = f"""
import logging
import structlog
from vireo.server.rpc import logs
from vireo.server.rpc.server import run_process

logs.WINDOW_SECONDS = 600

async def serve():
    logs.configure_logs("info", pod="gateway-1")
    log = structlog.get_logger()
    for number in range({MAX_LINES} + 980):
        log.warning("stage failed", number=number)
        logging.getLogger("library").error("connection %d lost", number)
        log.info("call", number=number)
    log.error("another event")

run_process(serve)
"""


def test_an_outage_logs_a_few_lines_an_event_and_at_the_end_how_many_it_did_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTAGE], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("stage failed") == MAX_LINES
    assert sum(event.startswith("connection") for event in events) == MAX_LINES
    assert events.count("another event") == 1
    assert events.count("call") == MAX_LINES + 980, "sampled lines aren't limited"
    reports = {line["of"]: line for line in lines if line["event"] == SUPPRESSED}
    assert {of: line["lines"] for of, line in reports.items()} == {
        "stage failed": 980,
        "library: connection %d lost": 980,
    }
    assert {line["pod"] for line in reports.values()} == {"gateway-1"}


def test_the_first_line_after_a_window_reports_what_was_suppressed_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(100.0)
    monkeypatch.setattr("time.monotonic", clock)
    reports: list[tuple[str, int]] = []
    limit = LineLimit(lambda *report: reports.append(report), lines=2, seconds=10)
    assert [limit.admits("key", "the event") for _ in range(5)] == [True] * 2 + [False] * 3
    assert not reports
    clock.now += 11
    assert limit.admits("key", "the event")
    assert reports == [("the event", 3)]


def test_a_signal_that_logs_while_a_line_is_counted_does_not_stop_the_process() -> None:
    script = """
import signal, threading
from vireo.server.rpc.logs import LineLimit

limit = LineLimit(lambda *_: None, lines=1, seconds=600)

class Key:
    def __hash__(self):  # within the lock, as a signal may come
        signal.raise_signal(signal.SIGUSR1)
        return 1

signal.signal(signal.SIGUSR1, lambda *_: limit.admits("another", "another"))
limit.admits(Key(), "event")
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "ended\n"
