"""Clients of every language do what cases.yaml says, to a server that fails as it says."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders.certificates import Certificate
from tests.builders.example_clients import Answer, ExampleClient, Target
from tests.builders.hostile import Hostile, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CASES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"].replace(" ", "-"))
async def test_clients_conform(
    case: dict[str, Any],
    grpc_client: ExampleClient,
    certificates: dict[str, Certificate],
    tmp_path: Path,
) -> None:
    over = case.get("over", ["plain", "secure"])
    runs = (run(case, grpc_client, certificates, each, tmp_path) for each in over)
    for failed in await asyncio.gather(*runs, return_exceptions=True):
        if failed is not None:
            raise failed


async def run(
    case: dict[str, Any],
    client: ExampleClient,
    certificates: dict[str, Certificate],
    over: str,
    folder: Path,
) -> None:
    ends, after = case.get("ends", ["ok"]), case.get("after", 0)
    hostile = Hostile(ends, after)  # type: ignore[abstract]
    flags, token = case.get("flags", "").split(), folder / "token"
    authority = None
    if over == "secure":
        hostile.called = lambda: token.write_text(f"token-{len(hostile.calls)}\n")
        hostile.called()
        flags += ["--token-file", str(token)]
        authority = certificates[case.get("trusts", "root")].certificate
    async with serving(hostile, certificates["server"] if authority else None) as address:
        viewers = case.get("viewers", "1").split()
        answer = await client.run(Target(address, authority), viewers, *flags)
    check_answer(case, answer)
    check_calls(case, hostile, over)


def check_answer(case: dict[str, Any], answer: Answer) -> None:
    assert answer.code == case.get("exit", 0), answer
    assert [shown(line) for line in answer.lines] == case.get("prints", []), answer
    lines = answer.errors.splitlines()
    assert bool(lines) == bool(answer.code)
    for pattern in case.get("errors", []):
        assert any(re.fullmatch(pattern, line) for line in lines), answer
    assert "secret" not in answer.errors


def shown(line: Any) -> str:
    return str(line.get("viewerId", line["items"][0]["videoId"]))


def check_calls(case: dict[str, Any], hostile: Hostile, over: str) -> None:
    calls, expected = hostile.calls, case.get("calls", [])
    methods = [call.method for call in calls]
    if isinstance(expected, dict):
        [(method, (least, most))] = expected.items()
        assert set(methods) == {method}
        assert least <= len(methods) <= most
    else:
        assert methods == expected
    if "resumes" in case:
        tokens = [call.request.resume_token for call in calls]
        assert re.fullmatch(case["resumes"], ",".join(tokens))
        assert {call.request.filter.conditions[0].any_of[0] for call in calls} == {"cat"}
    # An attempt more is the same call; a page, which has a token, is another one.
    ids = {(call.method, getattr(call.request, "page_token", "")) for call in calls}
    assert len({call.metadata["x-request-id"] for call in calls}) == len(ids)
    written = Counter(call.method for call in calls if call.method != "Recommend")
    if "resumes" not in case:
        assert len({str(call.request) for call in calls if call.method in written}) == len(written)
    if over == "secure":
        tokens = [call.metadata["authorization"] for call in calls]
        fresh = [f"Bearer token-{number}" for number, _ in enumerate(calls)]
        assert tokens == fresh or not case.get("fresh")
    seconds = next(iter(re.findall(r"--timeout (\d+)", case.get("flags", ""))), None)
    if seconds and "BatchRecommend" not in methods:
        # Not exactly: what travels is rounded, and clocks differ a little.
        assert all(call.seconds < int(seconds) + 1 for call in calls)
