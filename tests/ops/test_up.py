"""`vireo up` in the terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.builders.waiting import wait_until
from vireo.ops.cli.up import run_stack_in_terminal, show_endpoints
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import ProcessState, StackState


def in_a_terminal(script: str, home: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Run Python in a terminal; return the process, and what reads the terminal's output."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "VIREO_HOME": str(home), "TERM": "xterm"},
    )
    os.close(terminal)
    return process, controller


def test_what_a_ready_stack_says_stays_on_the_terminal(tmp_path: Path) -> None:
    script = """
from rich.console import Console
from vireo.ops.cli import up
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import ProcessState

async def run(stack):
    state = stack._state()
    for port in range(3):
        process = ProcessState(name="pod", state="healthy", port=port, log="pod.log")
        stack._on_change(state.model_copy(update={"processes": (process,) * 5}))
        if port == 1:
            stack._on_ready(state)

Stack.run = run
up.run_stack_in_terminal(ready=lambda _: Console().print("ask it now"))
"""
    process, controller = in_a_terminal(script, tmp_path)
    output = b""
    with suppress(OSError):  # it has ended
        while some := os.read(controller, 1 << 16):
            output += some
    assert process.wait(60) == 0, output.decode()
    said, table, _ = output.partition(b"ask it now")[2].partition(b"pod")
    assert table, "a table follows"
    assert b"\x1b[1A" not in said, "it begins below"


def test_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    """The stack is one without processes, whose state changes once the terminal is gone."""
    script = f"""
import asyncio, os, pathlib
from rich.console import Console
from vireo.ops.cli import up
from vireo.ops.stack.stack import Stack

async def run(stack):
    stack._write_state()
    pathlib.Path({str(tmp_path / "shown")!r}).touch()
    while os.isatty(1):
        await asyncio.sleep(0.01)
    stack._write_state()
    stack._write_state()
    pathlib.Path({str(tmp_path / "went on")!r}).touch()

Stack.run = run
up.run_stack_in_terminal(ready=lambda _: None)
print("stopped", flush=True)
"""
    process, controller = in_a_terminal(script, tmp_path)
    wait_until((tmp_path / "shown").exists)
    os.close(controller)
    assert process.wait(60) == 0
    assert (tmp_path / "went on").exists()


def test_up_observes_and_secures_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[StackSettings] = []

    async def no_processes(stack: Stack) -> None:
        run.append(stack._settings)

    monkeypatch.setattr(Stack, "run", no_processes)
    run_stack_in_terminal(ready=lambda _: None, observe=True, secure=True, durable=True)
    run_stack_in_terminal(ready=lambda _: None)
    asked, plain = run
    assert (asked.secure, asked.observe, asked.durable) == (True, True, True)
    assert (plain.secure, plain.observe, plain.durable) == (False, False, False)


@pytest.mark.parametrize(
    ("durable", "said"),
    [(True, "and a power cut"), (False, "not a power cut"), (None, "")],
)
def test_up_says_what_a_power_cut_may_take(
    capsys: pytest.CaptureFixture[str], durable: bool | None, said: str
) -> None:
    process = ProcessState(name="log", state="healthy", port=1, log=Path("logs/log.log"))
    show_endpoints(
        StackState(
            pid=1,
            started_at=datetime.now(UTC),
            ready=True,
            channel="production",
            edge="127.0.0.1:8080",
            admin_port=0,
            durable=durable,
            processes=(process,),
        )
    )
    printed = capsys.readouterr().out
    assert said in printed
    assert ("power cut" in printed) == (durable is not None)
