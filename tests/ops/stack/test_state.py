"""The state file of a stack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import StackState, running_stack, stack_lock
from vireo.server.errors import VireoError
from vireo.server.file_lock import file_lock
from vireo.server.home import Home


def test_a_state_file_that_cannot_be_written_ends_no_stack(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file where the folder should be")
    states: list[StackState] = []
    stack = Stack(StackSettings(home=tmp_path), states.append, states.append)
    stack._write_state()  # as the supervisor does on each change
    assert len(states) == 1


def test_a_running_stack_of_another_build_is_told_from_none(tmp_path: Path) -> None:
    home, state = Home(tmp_path), tmp_path / "stack/stack.json"
    with file_lock(stack_lock(home)):
        state.write_text(f'{{"pid": {os.getpid()}, "of": "another build"}}')
        with pytest.raises(VireoError, match=rf"process {os.getpid()}.*use the build that started"):
            running_stack(home)
        state.write_text('{"pid": 1, "of": "a stack that ended"}')
        assert running_stack(home) is None
        state.write_text("")
        assert running_stack(home) is None
    assert running_stack(home) is None
