"""Dropout, lines of a log, and checkpoints, whole or not at all."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.builders.waiting import wait_for
from vireo.training.modules import (
    ByteDropout,
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from vireo.training.progress import Bars, heartbeat, tracked


def test_a_log_gets_a_line_now_and_then_with_the_progress_of_the_innermost_bar() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100)
    stopped = Bars(console=Console(file=io.StringIO()))  # bars print themselves once they stop
    stopped.add_task("baseline", total=2)
    for _ in range(2):
        stopped.start()
    stopped.stop()
    with heartbeat(console, "training on mine", seconds=0.01):
        wait_for(lambda: re.search(r"\d:\d\d  training on mine", output.getvalue()))
        with Bars(console=console) as bars:
            bars.update(bars.add_task("retrieval", total=4), completed=1)
            wait_for(lambda: "retrieval 25%" in output.getvalue())
            for _ in tracked(range(2), "asking", console):
                wait_for(lambda: "asking" in output.getvalue())
    assert "baseline" not in output.getvalue()
    assert "heartbeat" not in [each.name for each in threading.enumerate()]


def test_a_terminal_gets_no_lines() -> None:
    output = io.StringIO()
    with heartbeat(Console(file=output, force_terminal=True), "training", seconds=0.001):
        assert "heartbeat" not in [each.name for each in threading.enumerate()]
    assert not output.getvalue()


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "training.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"epoch": 1})
    path.with_suffix(".partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*training\.pt: .*check free space"):
        write_checkpoint(path, {"epoch": 2})
    assert read_checkpoint(path) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_of_other_inputs_is_ignored_and_a_damaged_one_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").write("linear", {"epoch": 3})
    assert Checkpoints(tmp_path, "other").read("linear") is None
    assert Checkpoints(tmp_path, "one").read("linear") == {"epoch": 3}
    (tmp_path / "linear.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"linear\.pt is damaged; delete it"):
        Checkpoints(tmp_path, "one").read("linear")


def test_the_share_asked_for_is_dropped_independently_and_the_mean_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 801, requires_grad=True)
    y = ByteDropout(0.4)(x)
    kept = (y > 0).float()
    assert kept.mean().item() == pytest.approx(0.6, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.005)
    assert len(y.unique()) == 2
    for apart in range(1, 17):
        both = (kept[:, apart:] * kept[:, :-apart]).mean().item()
        assert both == pytest.approx(0.36, abs=0.005)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.ones(10)
    assert ByteDropout(0.9).eval()(x) is x
    assert ByteDropout(0.0)(x) is x
