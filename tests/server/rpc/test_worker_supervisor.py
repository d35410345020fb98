"""What becomes of worker processes that end, hang or don't start; here they are small scripts."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from server.rpc import worker_supervisor
from server.rpc.worker_supervisor import WorkerSupervisor
from server.rpc.workers_plan import WorkersPlan
from tests.builders.waiting import until

WORKER = """
import asyncio, os, sys
from pathlib import Path
from server.rpc.worker_place import SupervisorLink, WorkerPlace

place = WorkerPlace.taken()
link = SupervisorLink(place.descriptor)
lives = Path(sys.argv[1]) / str(place.number)
with lives.open("a") as file:
    file.write(f"{os.getpid()} {'late' if place.late else 'at once'}\\n")
"""
SERVES = "link.serves(); asyncio.run(link.beat())\n"


@pytest.fixture
def supervised(
    tmp_path: Path,
) -> Callable[..., WorkerSupervisor]:
    """Makes the supervisor of worker processes that do what a line says."""

    def of(line: str, workers: int = 2) -> WorkerSupervisor:
        script = tmp_path / "worker.py"
        script.write_text(WORKER + line)
        plan = WorkersPlan(
            command=[sys.executable, str(script), str(tmp_path)],
            workers=workers,
            host="127.0.0.1",
            port=1,
            metrics_host="127.0.0.1",
            metrics_port=0,
            pod="pod-7",
            log_level="info",
        )
        return WorkerSupervisor(plan, plan.port)

    return of


@asynccontextmanager
async def running(supervisor: WorkerSupervisor) -> AsyncIterator[None]:
    """Runs it for the block, and stops it then."""
    run = asyncio.create_task(supervisor.run())
    try:
        yield
    finally:
        assert not run.done()  # else the signal would end this process
        os.kill(os.getpid(), signal.SIGTERM)
        # The scripts end by SIGTERM itself.
        assert await run == 128 + signal.SIGTERM


def lives(folder: Path, number: int) -> list[tuple[int, str]]:
    """Each life of a worker process: its id, and when it was to listen."""
    file = folder / str(number)
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(pid), late) for pid, _, late in (line.partition(" ") for line in lines)]


def restarts() -> float:
    return REGISTRY.get_sample_value("vireo_worker_restarts_total") or 0.0


async def test_the_others_begin_when_the_first_serves_and_listen_when_they_do(
    supervised: Callable[..., WorkerSupervisor], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = f"import time\nwhile not Path({str(go)!r}).exists(): time.sleep(0.01)\n"
    async with running(supervised(waits + SERVES, 3)):
        await until(lambda: len(lives(tmp_path, 1)) == 1)
        assert not lives(tmp_path, 2) + lives(tmp_path, 3)
        go.touch()
        await until(lambda: all(lives(tmp_path, number) for number in (2, 3)))
    told = [lives(tmp_path, number)[0][1] for number in (1, 2, 3)]
    assert told == ["at once", "late", "late"]


async def test_a_pod_of_which_no_worker_process_serves_ends_with_the_exit_code(
    supervised: Callable[..., WorkerSupervisor], tmp_path: Path
) -> None:
    before = restarts()
    assert await supervised("sys.exit(3)").run() == 3
    assert len(lives(tmp_path, 1)) == 1
    assert not lives(tmp_path, 2)
    assert restarts() == before


async def test_one_that_does_not_start_is_tried_again_while_another_serves(
    supervised: Callable[..., WorkerSupervisor], tmp_path: Path
) -> None:
    before = restarts()
    async with running(supervised("place.number == 2 and sys.exit(3)\n" + SERVES)):
        await until(lambda: len(lives(tmp_path, 2)) >= 3)
        assert restarts() >= before + 2
    assert len(lives(tmp_path, 1)) == 1


async def test_one_that_ends_is_to_listen_at_once_where_no_other_serves(
    supervised: Callable[..., WorkerSupervisor], tmp_path: Path
) -> None:
    async with running(supervised(SERVES, 1)):
        await until(lambda: REGISTRY.get_sample_value("vireo_workers_serving") == 1)
        os.kill(lives(tmp_path, 1)[0][0], signal.SIGKILL)
        await until(lambda: len(lives(tmp_path, 1)) == 2)
    assert [late for _, late in lives(tmp_path, 1)] == ["at once", "at once"]


async def test_one_that_is_stuck_is_killed_and_started_again(
    supervised: Callable[..., WorkerSupervisor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_supervisor, "_MOST_SILENT_LOOKS", 2)
    async with running(supervised(SERVES)):
        await until(lambda: REGISTRY.get_sample_value("vireo_workers_serving") == 2)
        [stuck, *_] = lives(tmp_path, 2)
        os.kill(stuck[0], signal.SIGSTOP)
        await until(lambda: lives(tmp_path, 2)[-1] != stuck)
    assert lives(tmp_path, 2)[-1][1] == "late"


async def test_a_second_signal_while_they_drain_is_passed_on_before_the_end(
    supervised: Callable[..., WorkerSupervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    stays = (
        "import signal\n"
        "def drain(*_):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "    lives.with_suffix('.drains').touch()\n"
        "signal.signal(signal.SIGTERM, drain)\n"
    )
    run = asyncio.create_task(supervised(stays + SERVES).run())
    await until(lambda: REGISTRY.get_sample_value("vireo_workers_serving") == 2)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: len([*tmp_path.glob("*.drains")]) == 2)
    assert not run.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: bool(ended))
    assert ended == [128 + signal.SIGTERM]
    assert await run == 128 + signal.SIGTERM
