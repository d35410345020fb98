"""What `vireo restart` has a stack do; its processes here do nothing but run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from vireo.ops.stack import stack as stack_module
from vireo.ops.stack import state as module
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.stack import Stack
from vireo.ops.stack.state import StackState, environment_file, restart
from vireo.server.errors import VireoError
from vireo.server.file_lock import file_lock
from vireo.server.home import Home

NAMES = ("gateway-1", "gateway-2", "consumer-1")
SETTING = "VIREO_REDIS_URL"


class IdleStack(Stack):
    """A stack whose processes sleep, and are healthy unless the setting is wrong."""

    async def _serve(self) -> None:
        await self._supervisor.start([idle("log"), *self._specs(self._settings)], 60)
        self._on_ready(self._state())
        await self._supervisor.watch()

    def _specs(self, settings: StackSettings) -> list[ProcessSpec]:
        return [idle(name) for name in NAMES]


def idle(name: str) -> ProcessSpec:
    """A process of now; raise VireoError if the setting is invalid."""
    setting = os.environ[SETTING]
    if setting == "invalid":
        raise VireoError("no such address")
    return ProcessSpec(name, ["sleep", "600"], 0, partial(_probe, setting), {"SETTING": setting})


async def _probe(setting: str) -> str:
    return "refused" if setting == "wrong" else ""


@asynccontextmanager
async def running(home: Home, history: list[StackState]) -> AsyncIterator[None]:
    base = free_port_base()
    settings = StackSettings(home=home.root, port_base=base, edge_port=base + 3)
    ready = asyncio.Event()
    stack = IdleStack(settings, history.append, lambda _: ready.set())
    before = signal.getsignal(signal.SIGHUP)
    task = asyncio.create_task(stack.run())
    try:
        await asyncio.wait_for(ready.wait(), 60)
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await task
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy is not there, whose checks are waited for; and no setting stays."""
    monkeypatch.setattr(module, "_SEEN_SECONDS", 0.0)
    monkeypatch.setattr(stack_module, "_STORES", {"log": lambda _: idle("log")})
    monkeypatch.setenv(SETTING, "first")


def settings_of(state: StackState) -> dict[str, str]:
    return {each.name: psutil.Process(each.pid).environ()["SETTING"] for each in state.processes}


def _restart(home: Home, setting: str, *names: str, patience: float = 60) -> None:
    """Restart as another process does that has the setting."""
    own = {SETTING: setting}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "os", SimpleNamespace(environ=own, kill=os.kill))
        restart(home, names, patience)


async def test_processes_get_new_settings_one_after_the_other(tmp_path: Path) -> None:
    home, history = Home(tmp_path), list[StackState]()
    async with running(home, history):
        began = len(history)
        await asyncio.to_thread(_restart, home, "second")
        assert settings_of(history[-1]) == {
            "log": "first",  # by name only
            "gateway-1": "second",
            "gateway-2": "second",
            "consumer-1": "second",
        }
        for state in history[began:]:
            assert sum(each.state != "healthy" for each in state.processes) <= 1
        assert not environment_file(home).exists()
        os.kill(os.getpid(), signal.SIGHUP)  # its terminal is closed
        await asyncio.to_thread(_restart, home, "third", "gateway", "log")
        assert settings_of(history[-1]) == {
            "log": "third",
            "gateway-1": "third",
            "gateway-2": "third",
            "consumer-1": "second",
        }


async def test_a_restart_ends_at_the_first_process_that_isnt_healthy(tmp_path: Path) -> None:
    home, history = Home(tmp_path), list[StackState]()
    async with running(home, history):
        with pytest.raises(VireoError, match=r"gateway-1 isn't healthy 2 s .*refused.*its log: "):
            await asyncio.to_thread(_restart, home, "wrong", patience=2)
        assert settings_of(history[-1])["gateway-2"] == "first"
        await asyncio.to_thread(_restart, home, "right")
        assert settings_of(history[-1])["gateway-2"] == "right"


async def test_a_restart_beside_another_or_with_invalid_settings_changes_nothing(
    tmp_path: Path,
) -> None:
    home, history = Home(tmp_path), list[StackState]()
    async with running(home, history):
        with file_lock(home.stack / "restart"), pytest.raises(VireoError, match="try again once"):
            await asyncio.to_thread(_restart, home, "second")
        with pytest.raises(VireoError, match="the stack can't use these settings"):
            await asyncio.to_thread(_restart, home, "invalid")
        assert set(settings_of(history[-1]).values()) == {"first"}
        await asyncio.to_thread(_restart, home, "right")
        assert settings_of(history[-1])["gateway-2"] == "right"


async def test_what_doesnt_run_is_not_restarted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(VireoError, match=r"no stack runs .* vireo up"):
        restart(home, [], 1)
    async with running(home, []):
        with pytest.raises(VireoError, match="there is no ranking to restart, but log, gateway-1"):
            await asyncio.to_thread(restart, home, ["ranking"], 1)
