"""What long trainings leave: lines of a log, and checkpoints, whole or not at all."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from vireo.training.modules import CheckpointError, Checkpoints, read_checkpoint, write_checkpoint
from vireo.training.progress import Bars, tracked


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_gets_a_line_now_and_then_with_the_progress_of_all_bars(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.training.progress.SECONDS", 0.0)
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=terminal)
    with Bars(console=console, transient=True) as bars:
        bars.update(bars.add_task("baseline", total=2), completed=2)
        task = bars.add_task("towers", total=4)
        bars.advance(task)
        bars.update(task, completed=3)
        assert list(tracked(range(2), "asking", console)) == [0, 1]
    lines = output.getvalue().splitlines()
    wanted = [] if terminal else ["towers 25%", "towers 75%"]
    assert [line for line in lines if re.fullmatch(r"towers \d+%", line)] == wanted
    assert "baseline 100%" not in lines


def test_a_state_is_read_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "training.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"epoch": 1})
    assert read_checkpoint(path) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_checkpoint(path, {"epoch": 1})
    (tmp_path / "training.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*training\.pt: .*check free space"):
        write_checkpoint(path, {"epoch": 2})
    assert read_checkpoint(path) == {"epoch": 1}


def test_a_checkpoint_of_other_inputs_is_ignored_and_a_damaged_one_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").write("linear", {"epoch": 3})
    assert Checkpoints(tmp_path, "other").read("linear") is None
    assert Checkpoints(tmp_path, "one").read("linear") == {"epoch": 3}
    (tmp_path / "linear.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"linear\.pt is damaged; delete it"):
        Checkpoints(tmp_path, "one").read("linear")
