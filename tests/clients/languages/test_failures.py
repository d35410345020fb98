"""What the example clients do when calls fail, and how they authenticate."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.builders.certificates import Certificate, authority, signed
from tests.builders.edge import running_edge
from tests.builders.example_clients import BROWSER, ExampleClient, Target
from tests.builders.gateway import SLATE, fake_gateway, overloaded, secure_gateway
from vireo.server.rpc.errors import RpcError, ShedError, ShedReason, unavailable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SOON = timedelta(milliseconds=20)
DRAINING = unavailable("draining", SOON)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return authority(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def server(root: Certificate) -> Certificate:
    return signed(root.certificate.parent, "server", root)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that has signed nothing here."""
    return authority(tmp_path_factory.mktemp("stranger")).certificate


async def test_a_request_that_cannot_be_served_is_sent_three_times(
    grpc_client: ExampleClient,
) -> None:
    async with fake_gateway() as gateway:
        gateway.answers = [DRAINING, DRAINING, SLATE]
        slate = (await grpc_client.recommend(Target(gateway.address), "1")).slate
    assert [item["videoId"] for item in slate["items"]] == ["v"]
    assert len(gateway.requests) == 3
    assert len(gateway.peers) == 1


@pytest.mark.parametrize(
    ("failure", "attempts", "said"),
    [
        (DRAINING, 3, ["UNAVAILABLE: draining", "  retry after 20 ms"]),
        (
            overloaded(timedelta(hours=1, milliseconds=5)),
            1,
            ["RESOURCE_EXHAUSTED: too many", "  retry after 3600005 ms"],
        ),
    ],
)
async def test_what_fails_in_the_end_is_told_with_the_delay_of_retry_info(
    grpc_client: ExampleClient, failure: RpcError, attempts: int, said: list[str]
) -> None:
    async with fake_gateway() as gateway:
        gateway.answers = [failure]
        answer = await grpc_client.recommend(Target(gateway.address), "1")
    assert answer.code == 1
    assert answer.errors.splitlines() == said
    assert len(gateway.requests) == attempts


async def test_calls_have_the_deadline_that_is_asked_for(grpc_client: ExampleClient) -> None:
    async with fake_gateway() as gateway:
        gateway.answers = [None]
        # A busy machine may need the first of it to connect.
        answer = await grpc_client.recommend(Target(gateway.address), "1", "--timeout", "5")
    assert answer.code == 1
    assert answer.errors.startswith("DEADLINE_EXCEEDED: ")
    # Not exactly five seconds: what travels is rounded, and clocks differ a little.
    assert all(seconds < 6 for seconds in gateway.seconds)
    assert gateway.requests


async def test_over_tls_a_token_goes_along(
    grpc_client: ExampleClient, root: Certificate, server: Certificate
) -> None:
    async with secure_gateway(grpc.ssl_server_credentials([server.pair])) as gateway:
        target = Target(gateway.address, root.certificate, "a.b.c")
        slate = (await grpc_client.recommend(target, "1")).slate
    assert slate["releaseId"] == "r"
    assert [each["authorization"] for each in gateway.metadata] == ["Bearer a.b.c"]


async def test_a_server_of_another_authority_is_not_asked(
    grpc_client: ExampleClient, stranger: Path, server: Certificate
) -> None:
    async with secure_gateway(grpc.ssl_server_credentials([server.pair])) as gateway:
        answer = await grpc_client.recommend(
            Target(gateway.address, stranger, "a.b.c"), "1", "--timeout", "5"
        )
    assert answer.code == 1
    # Until the deadline some try to connect again.
    assert re.search(r"^(UNAVAILABLE|DEADLINE_EXCEEDED): ", answer.errors, re.MULTILINE)
    assert not gateway.requests


async def test_a_token_never_travels_in_plain_text(client: ExampleClient) -> None:
    answer = await client.recommend(Target("127.0.0.1:1", token="secret"), "1")
    assert answer.code == 2
    assert "plain text" in answer.errors
    assert "secret" not in answer.errors


async def test_an_invalid_command_line_is_reported(client: ExampleClient) -> None:
    invalid = (
        ["--page-size", "many"],
        ["--nothing", "1"],
        ["--similar", "v"],  # needs no viewer
        ["--why", "v", "another"],  # needs one viewer
    )
    for flags in invalid:
        answer = await client.recommend(Target("127.0.0.1:1"), "1", *flags)
        assert (answer.code, answer.output) == (2, "")
        assert answer.errors


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
    browser: ExampleClient, root: Certificate, server: Certificate, stranger: Path, tmp_path: Path
) -> None:
    async with (
        running_edge(tmp_path, gateway_count=1) as edge,
        tls_before(edge.address, server) as address,
    ):
        refused = await browser.recommend(Target(address, stranger, "a.b.c"), "1")
        assert refused.code == 1
        assert "ERR_CERT_AUTHORITY_INVALID" in refused.errors
        assert not edge.gateways[0].requests
        slate = (await browser.recommend(Target(address, root.certificate, "a.b.c"), "1")).slate
        assert slate["releaseId"] == "gateway-0"
        assert edge.gateways[0].metadata["authorization"] == "Bearer a.b.c"


@asynccontextmanager
async def tls_before(address: str, server: Certificate) -> AsyncIterator[str]:
    """Terminate TLS in front of a plaintext server; yield its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    host, port = address.rsplit(":", 1)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass  # the caller has gone
        finally:
            sink.close()

    outer = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    async with outer:
        yield f"127.0.0.1:{outer.sockets[0].getsockname()[1]}"
