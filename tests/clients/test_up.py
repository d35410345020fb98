"""`vireo up` in the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.cli.up import run_stack_in_terminal, show_endpoints
from server.stack.settings import StackSettings
from server.stack.stack import Stack
from server.stack.state import ProcessState, StackState


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
