from __future__ import annotations

import io
import time

from rich.console import Console

from vireo.training.heartbeat import Bars, heartbeat, tracked


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wait_for(text: str, console: Console) -> None:
    deadline = time.monotonic() + 30
    while text not in printed(console):
        assert time.monotonic() < deadline, printed(console)
        time.sleep(0.005)


def test_a_log_gets_a_line_now_and_then() -> None:
    console = Console(file=io.StringIO(), width=100)
    with heartbeat(console, "training on mine", seconds=0.01):
        wait_for("0:00  training on mine", console)


def test_the_lines_show_the_progress_of_the_innermost_bar() -> None:
    console = Console(file=io.StringIO(), width=100)
    with heartbeat(console, "training", seconds=0.01), Bars(console=console) as bars:
        bars.update(bars.add_task("retrieval", total=4), completed=1)
        wait_for("retrieval 25%", console)
        for _ in tracked(range(2), "asking", console):
            wait_for("asking", console)
    assert "training\n" not in printed(console).split("asking")[-1]


def test_a_terminal_gets_none() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with heartbeat(console, "training", seconds=0.001):
        time.sleep(0.05)
    assert not printed(console)


def test_nothing_is_printed_after_the_end() -> None:
    console = Console(file=io.StringIO(), width=100)
    with heartbeat(console, "training", seconds=0.001):
        wait_for("training", console)
    before = printed(console)
    time.sleep(0.02)
    assert printed(console) == before


def test_bars_that_were_started_twice_are_gone_once_they_stop() -> None:
    console = Console(file=io.StringIO(), width=100)
    bars = Bars(console=console)
    bars.add_task("baseline", total=2)
    for _ in range(2):
        bars.start()
    bars.stop()
    with heartbeat(console, "training", seconds=0.001):
        wait_for("training", console)
