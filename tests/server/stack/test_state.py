"""The state file of a stack."""

from __future__ import annotations

from pathlib import Path

from server.stack.settings import StackSettings
from server.stack.stack import Stack
from server.stack.state import StackState


def test_a_state_file_that_cannot_be_written_ends_no_stack(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file where the folder should be")
    states: list[StackState] = []
    stack = Stack(StackSettings(home=tmp_path), states.append, states.append)
    stack._write_state()  # as the supervisor does on each change
    assert len(states) == 1
