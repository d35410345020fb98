"""Slates of many viewers, by clients of every language, from gateways that end streams early."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.builders.batches import Batches, served
from tests.builders.example_clients import GO, JAVA, NODE, ExampleClient, Target
from vireo.server.rpc.errors import unavailable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

DRAINING = unavailable("draining", timedelta(milliseconds=1))


# Python's is resumed by its library, which has tests of its own.
@pytest.mark.parametrize("example", [GO, JAVA, NODE], ids=lambda example: example.name)
async def test_a_batch_is_resumed_after_its_last_slate_and_without_any_is_given_up(
    example: ExampleClient,
) -> None:
    example.build()
    viewers = [str(number) for number in range(10)]
    # More often than a client resumes in a row without a slate.
    breaks = Batches([DRAINING] * 4, after=2)
    gone = Batches([DRAINING] * 100)
    async with served(breaks) as breaking, served(gone) as away:
        resumed, failed = await asyncio.gather(
            example.run(Target(breaking), viewers, "--tag", "cat"),
            example.run(Target(away), viewers, "--timeout", "2"),
        )
    assert [slate["viewerId"] for slate in resumed.slates] == viewers
    shown = [slate["items"][0]["videoId"] for slate in resumed.slates]
    assert shown == [f"for {viewer}" for viewer in viewers]
    assert [each.resume_token for each in breaks.requests] == ["", "2", "4", "6", "8"]
    assert {each.page_size for each in breaks.requests} == {20}
    assert {each.filter.conditions[0].any_of[0] for each in breaks.requests} == {"cat"}

    assert (failed.code, failed.output) == (1, "")
    assert failed.errors.startswith("UNAVAILABLE: draining")
    assert 1 < len(gone.requests) < 20
