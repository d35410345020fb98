"""How many lines of one event reach the log, by a process of its own as pods log."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from vireo.server.rpc.log_limit import MAX_LINES, SUPPRESSED, LineLimit

OUTAGE = f"""
import logging, threading, time
import structlog
from vireo.server.rpc import log_limit
log_limit.WINDOW_SECONDS = 600
from vireo.server.rpc.logs import configure_logs
configure_logs("info", pod="gateway-1")
log = structlog.get_logger()
for number in range({MAX_LINES} + 980):
    log.warning("stage failed", number=number)
    logging.getLogger("library").error("connection %d lost", number)
    log.info("call", number=number)
log.error("another event")
"""


def logged(script: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_outage_logs_a_few_lines_an_event_and_how_many_it_did_not() -> None:
    lines = logged(OUTAGE)
    events = [line["event"] for line in lines]
    assert events.count("stage failed") == MAX_LINES
    assert sum(event.startswith("connection") for event in events) == MAX_LINES
    assert events.count("another event") == 1
    reports = {line["of"]: line for line in lines if line["event"] == SUPPRESSED}
    assert {of: line["lines"] for of, line in reports.items()} == {
        "stage failed": 980,
        "library: connection %d lost": 980,
    }
    assert {line["pod"] for line in reports.values()} == {"gateway-1"}


def test_sampled_lines_are_not_rate_limited() -> None:
    events = [line["event"] for line in logged(OUTAGE)]
    assert events.count("call") == MAX_LINES + 980


def test_a_window_ends_with_its_report_though_nothing_is_logged_any_more() -> None:
    reports: list[tuple[str, int]] = []
    reported = threading.Event()

    def report(event: str, lines: int) -> None:
        reports.append((event, lines))
        reported.set()

    limit = LineLimit(report, lines=2, seconds=0.2)
    admitted = [limit.admits("key", "the event") for _ in range(5)]
    assert admitted == [True, True, False, False, False]
    assert reported.wait(60)
    assert reports == [("the event", 3)]
    assert limit.admits("key", "the event")


def test_a_window_ends_by_the_next_line_if_no_thread_could_be_started_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", start)
    reports: list[tuple[str, int]] = []
    limit = LineLimit(lambda *report: reports.append(report), lines=1, seconds=0.05)
    assert limit.admits("key", "the event")
    deadline = time.monotonic() + 60
    while not reports and time.monotonic() < deadline:
        limit.admits("key", "the event")
    [(event, suppressed)] = reports
    assert event == "the event"
    assert suppressed > 0


def test_a_signal_that_logs_while_a_line_is_counted_does_not_stop_the_process() -> None:
    script = """
import signal, threading
from vireo.server.rpc.log_limit import LineLimit

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


def test_a_server_process_reports_what_was_suppressed_before_it_ends() -> None:
    script = f"""
import structlog
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.server import run_process

async def serve():
    configure_logs("info", pod="gateway-1")
    for _ in range({MAX_LINES} + 5):
        structlog.get_logger().warning("stage failed")

run_process(serve)
"""
    [report] = [line for line in logged(script) if line["event"] == SUPPRESSED]
    assert (report["of"], report["lines"]) == ("stage failed", 5)
