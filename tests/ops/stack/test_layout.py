"""A stack whose services are together in one process, and its way there and back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.builders.commands import run_vireo as vireo
from tests.builders.slate_load import Answers, slates_during
from tests.builders.stack import Stack, running_stack
from tests.builders.tiny_home import DATASET, build_tiny_home
from tests.builders.waiting import wait_until
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = build_tiny_home(tmp_path_factory.mktemp("layout"))
    publish = f"vireo release publish --data {DATASET}"
    with running_stack(home.root, prepare=publish, settings={"VIREO_LAYOUT": "together"}) as stack:
        yield stack


def kinds(stack: Stack) -> Counter[str]:
    """How many pods of each kind there are."""
    return Counter(each.name.rpartition("-")[0] for each in stack.state().processes if each.pool)


async def test_it_moves_to_separate_pods_and_back_and_no_slate_fails_or_is_degraded(
    stack: Stack,
) -> None:
    assert kinds(stack) == {"slate": 2}
    found: list[Counter[str]] = []

    async def move(answers: Answers) -> None:
        for layout in ("separate", "together"):
            moved = await asyncio.to_thread(vireo, stack.environment, "layout", "set", layout)
            assert moved.returncode == 0, moved.stderr
            found.append(kinds(stack))
            await answers.until_more(50)

    answers = await slates_during(stack.edge, move, callers=2)
    assert not answers.failures
    assert not answers.degradations
    assert found == [{"candidate": 2, "ranking": 2, "gateway": 2}, {"slate": 2}]


async def test_a_layout_whose_pods_cannot_start_is_left_and_the_one_before_goes_on(
    stack: Stack,
) -> None:
    [port] = [each.port for each in stack.state().processes if each.name == "slate-1"]
    with socket.create_server(("127.0.0.1", port - 30)):  # the first candidate pod's

        async def move(answers: Answers) -> None:
            moved = await asyncio.to_thread(
                vireo, stack.environment, "layout", "set", "separate", code=1
            )
            assert "keeps its layout" in moved.stderr
            await answers.until_more(20)

        answers = await slates_during(stack.edge, move, callers=2)
    assert not answers.failures
    assert not answers.degradations
    assert kinds(stack) == {"slate": 2}


def test_doctor_and_status_know_slate_pods(stack: Stack) -> None:
    status = vireo(stack.environment, "status").stdout
    assert status.count("tiny-1") == 2, "each slate pod's release"

    def causes() -> set[str]:
        found = json.loads(vireo(stack.environment, "doctor", "--json", code=1).stdout)["findings"]
        return {each["cause"] for each in found}

    # Envoy forgets the pods of the layout before once its checks of them have failed.
    wait_until(lambda: causes() == {"release-old"}, 60)  # the tiny release is


async def test_a_slate_pod_that_is_killed_is_replaced_by_the_other(stack: Stack) -> None:
    async def kill(answers: Answers) -> None:
        os.kill(stack.pid("slate-1"), signal.SIGKILL)
        await answers.until_more(100)

    answers = await slates_during(stack.edge, kill, callers=2)
    assert not answers.failures


def test_down_ends_the_stack(stack: Stack) -> None:
    """The last that has this stack."""
    assert vireo(stack.environment, "down").stdout == "stopped\n"
    stack.process.wait(60)
    again = vireo(stack.environment, "down", code=3)
    assert "no stack runs on" in again.stderr
    assert "slate-1: " in vireo(stack.environment, "logs", "slate").stdout


def test_canary_pods_need_separate_ones() -> None:
    settings = StackSettings(layout="together", canary_pods=1)
    with pytest.raises(VireoError, match="VIREO_CANARY_PODS"):
        settings.ports(embedded_s3=True)
