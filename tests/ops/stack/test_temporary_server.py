"""Servers that last as long as a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from vireo.ops.stack import temporary_server as module
from vireo.ops.stack.nats import embedded_log
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import stack_lock
from vireo.ops.stack.temporary_server import temporary_server
from vireo.server.errors import VireoError
from vireo.server.file_lock import file_lock


def test_a_server_that_ends_is_reported_with_what_it_wrote_last(tmp_path: Path) -> None:
    command, log = ["sh", "-c", "echo the disk is full >&2; exit 3"], tmp_path / "logs" / "x.log"
    with (
        pytest.raises(VireoError, match=f"sh ended with code 3; see {log}: the disk is full"),
        temporary_server(command, log, lambda: "no answer", {}),
    ):
        pytest.fail("it isn't ready")


def test_a_server_that_does_not_end_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.1)
    started = tmp_path / "started"
    command = ["sh", "-c", f"trap '' TERM; touch {started}; while true; do sleep 0.1; done"]
    with temporary_server(command, tmp_path / "log", lambda: "" if started.exists() else "no", {}):
        pass


def test_a_second_command_at_the_same_time_is_told_of_the_first(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path)
    with (
        file_lock(stack_lock(settings.home_folder)),
        pytest.raises(VireoError, match=r"process \d+ holds .*; try again once it has ended"),
        embedded_log(settings),
    ):
        pytest.fail("it isn't its own")
