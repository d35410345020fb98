"""What the client in a browser does when calls fail, and how it authenticates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.builders.certificates import Certificate
from tests.builders.edge import running_edge
from tests.builders.example_clients import BROWSER, ExampleClient, Target
from tests.builders.hostile import front
from vireo.server.rpc.errors import ShedError, ShedReason

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def browser() -> ExampleClient:
    BROWSER.build()
    return BROWSER


async def test_a_browser_reports_overloads_and_deadlines(
    browser: ExampleClient, tmp_path: Path
) -> None:
    async with running_edge(tmp_path, gateway_count=1) as edge:
        target = Target(edge.address)
        assert (await browser.recommend(target, "1")).slate["releaseId"] == "gateway-0"
        edge.gateways[0].failure = ShedError(ShedReason.QUEUE)
        code, retry = (await browser.recommend(target, "1")).errors.splitlines()
        assert code.startswith("RESOURCE_EXHAUSTED: ")
        assert retry.startswith("  retry after ")
        edge.gateways[0].failure = None
        edge.gateways[0].delay = math.inf
        answer = await browser.recommend(target, "1", "--timeout", "2")
        assert answer.code == 1
        assert answer.errors.startswith("DEADLINE_EXCEEDED: ")


async def test_over_tls_a_browser_sends_a_token_to_a_trusted_edge(
    browser: ExampleClient, certificates: dict[str, Certificate], tmp_path: Path
) -> None:
    root, stranger = (certificates[name].certificate for name in ("root", "stranger"))
    async with (
        running_edge(tmp_path, gateway_count=1) as edge,
        front(edge.address, certificates["server"]) as (address, _),
    ):
        refused = await browser.recommend(Target(address, stranger, "a.b.c"), "1")
        assert refused.code == 1
        assert "ERR_CERT_AUTHORITY_INVALID" in refused.errors
        assert not edge.gateways[0].requests
        slate = (await browser.recommend(Target(address, root, "a.b.c"), "1")).slate
        assert slate["releaseId"] == "gateway-0"
        assert edge.gateways[0].metadata["authorization"] == "Bearer a.b.c"
