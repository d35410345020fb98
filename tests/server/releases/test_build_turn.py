import asyncio
from pathlib import Path

import pytest

from tests.builders.waiting import until
from vireo.server.releases import loader as module
from vireo.server.releases.loader import build_turn


async def test_pods_that_share_a_cache_build_one_after_another(tmp_path: Path) -> None:
    building: list[str] = []
    most = 0

    async def pod(name: str) -> None:
        nonlocal most
        async with build_turn(tmp_path / "cache"):
            building.append(name)
            most = max(most, len(building))
            await asyncio.sleep(0.05)
            building.remove(name)

    await asyncio.gather(*(pod(name) for name in "abcd"))
    assert most == 1


async def test_a_failed_build_lets_the_next_pod_build(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unfit"):
        async with build_turn(tmp_path):
            raise ValueError("unfit")
    async with asyncio.timeout(30), build_turn(tmp_path):
        pass


async def test_a_pod_builds_without_its_turn_after_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAIT_SECONDS", 0.2)
    hangs, let_go = asyncio.Event(), asyncio.Event()

    async def hanging_pod() -> None:
        async with build_turn(tmp_path):
            hangs.set()
            await let_go.wait()

    other = asyncio.create_task(hanging_pod())
    await until(hangs.is_set)
    async with asyncio.timeout(30), build_turn(tmp_path):
        assert not other.done()
    let_go.set()
    await other


async def test_a_read_only_cache_doesnt_block_building(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    async with build_turn(tmp_path / "cache"):
        pass
