from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from vireo.training.heartbeat import Bars, heartbeat, tracked


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def wait_for(text: str, output: io.StringIO) -> None:
    deadline = time.monotonic() + 30
    while text not in output.getvalue():
        assert time.monotonic() < deadline, output.getvalue()
        time.sleep(0.005)


def test_a_log_gets_a_line_now_and_then_with_the_progress_of_the_innermost_bar(
    output: io.StringIO,
) -> None:
    console = Console(file=output, width=100)
    stopped = Bars(console=Console(file=io.StringIO()))  # bars print themselves once they stop
    stopped.add_task("baseline", total=2)
    for _ in range(2):
        stopped.start()
    stopped.stop()
    with heartbeat(console, "training on mine", seconds=0.01):
        wait_for("0:00  training on mine", output)
        with Bars(console=console) as bars:
            bars.update(bars.add_task("retrieval", total=4), completed=1)
            wait_for("retrieval 25%", output)
            for _ in tracked(range(2), "asking", console):
                wait_for("asking", output)
    assert "baseline" not in output.getvalue()


def test_a_terminal_gets_none(output: io.StringIO) -> None:
    console = Console(file=output, width=100, force_terminal=True)
    log = io.StringIO()
    with (
        heartbeat(Console(file=log), "beside", seconds=0.001),
        heartbeat(console, "training", seconds=0.001),
    ):
        wait_for("beside", log)
    assert not output.getvalue()
