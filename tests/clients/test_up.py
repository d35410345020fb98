"""`vireo up` in the terminal."""

from __future__ import annotations

import pytest

from clients.cli.up import run_stack_in_terminal
from server.stack.settings import StackSettings
from server.stack.stack import Stack


def test_up_observes_and_secures_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[StackSettings] = []

    async def no_processes(stack: Stack) -> None:
        run.append(stack._settings)

    monkeypatch.setattr(Stack, "run", no_processes)
    run_stack_in_terminal(ready=lambda _: None, observe=True, secure=True)
    run_stack_in_terminal(ready=lambda _: None)
    asked, plain = run
    assert (asked.secure, asked.observe) == (True, True)
    assert (plain.secure, plain.observe) == (False, False)
