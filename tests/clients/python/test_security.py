"""TLS, mutual TLS and tokens, against a server that insists on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tests.builders.certificates import Certificate, authority, signed
from tests.clients.python.conftest import Connect
from vireo_client import AsyncClient, Client, DeadlineExceeded, Tls, Unavailable
from vireo_client.testing import FakeStack


@dataclass(frozen=True)
class Trust:
    """An authority, what it has signed, and another one."""

    root: Certificate
    server: Certificate
    client: Certificate
    other_root: Certificate
    stranger: Certificate
    """A client that the other authority has signed."""


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("certificates")
    root, other = authority(folder, "root"), authority(folder, "other")
    return Trust(
        root,
        signed(folder, "server", root),
        signed(folder, "client", root),
        other,
        signed(folder, "stranger", other),
    )


@pytest.fixture
def tls_stack(trust: Trust) -> Iterator[FakeStack]:
    """Shows a certificate, and asks for none."""
    with FakeStack(credentials=grpc.ssl_server_credentials([trust.server.pair])) as stack:
        yield stack


@pytest.fixture
def mtls_stack(trust: Trust) -> Iterator[FakeStack]:
    """A stack that requires a client certificate of the authority."""
    credentials = grpc.ssl_server_credentials(
        [trust.server.pair], trust.root.certificate.read_bytes(), require_client_auth=True
    )
    with FakeStack(credentials=credentials) as stack:
        yield stack


async def test_only_a_server_of_a_trusted_authority_is_asked(
    tls_stack: FakeStack, trust: Trust, connect: Connect
) -> None:
    for tls in (Tls(), Tls.from_files(trust.other_root.certificate)):
        async with connect(tls_stack.target, tls=tls) as recommend:
            with pytest.raises(Unavailable):
                await recommend("1")
    assert not tls_stack.requests
    tls = Tls.from_files(trust.root.certificate)
    async with connect(tls_stack.target, tls=tls) as recommend:
        assert (await recommend("1")).items


async def test_a_client_that_shows_its_own_certificate_and_no_other_is_answered(
    mtls_stack: FakeStack, trust: Trust, connect: Connect
) -> None:
    root, stranger = trust.root.certificate, trust.stranger
    for tls in (Tls.from_files(root), Tls.from_files(root, stranger.certificate, stranger.key)):
        async with connect(mtls_stack.target, tls=tls) as recommend:
            with pytest.raises(Unavailable):
                await recommend("1")
    assert not mtls_stack.requests
    tls = Tls.from_files(root, trust.client.certificate, str(trust.client.key))
    async with connect(mtls_stack.target, tls=tls) as recommend:
        assert (await recommend("1")).items


def test_a_certificate_without_its_key_is_refused(trust: Trust) -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls.from_files(trust.root.certificate, trust.client.certificate)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Tls(None, b"certificate", b"secret"))


async def test_a_token_goes_along_as_it_is_at_the_time(
    tls_stack: FakeStack, trust: Trust, connect: Connect
) -> None:
    tokens = iter(["first", "first", "second"])
    tls = Tls.from_files(trust.root.certificate)
    async with connect(tls_stack.target, tls=tls, token=lambda: next(tokens)) as recommend:
        for _ in range(3):
            await recommend("1")
    async with connect(tls_stack.target, tls=tls, token="fixed") as recommend:
        await recommend("1")
    assert [metadata["authorization"] for metadata in tls_stack.metadata] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
        "Bearer fixed",
    ]


async def test_errors_of_a_token_source_are_raised_unchanged(
    tls_stack: FakeStack, trust: Trust, connect: Connect
) -> None:
    def token() -> str:
        raise LookupError("the vault is shut")

    tls = Tls.from_files(trust.root.certificate)
    async with connect(tls_stack.target, tls=tls, token=token) as recommend:
        with pytest.raises(LookupError, match="vault"):
            await recommend("1")


async def test_a_token_may_come_asynchronously_within_the_calls_timeout(
    tls_stack: FakeStack, trust: Trust
) -> None:
    tls = Tls(trust.root.certificate.read_bytes())

    async def token() -> str:
        await asyncio.sleep(0)
        return "fetched"

    async with AsyncClient(tls_stack.target, tls=tls, token=token, timeout=60) as client:
        await client.recommend("1")
    assert tls_stack.metadata[0]["authorization"] == "Bearer fetched"

    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async with AsyncClient(tls_stack.target, tls=tls, token=never, timeout=0.1) as client:
        with pytest.raises(DeadlineExceeded, match="no token"):
            await client.recommend("1")
    not_a_string: Any = asyncio.Event
    with (
        Client(tls_stack.target, tls=tls, token=not_a_string) as sync,
        pytest.raises(TypeError, match="AsyncClient"),
    ):
        sync.recommend("1")


async def test_a_token_never_travels_in_plain_text(connect: Connect) -> None:
    with pytest.raises(ValueError, match="plain text"):
        async with connect("127.0.0.1:1", token="secret"):
            pass
