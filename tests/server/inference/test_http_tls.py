"""HTTP of a pod with certificates: the port asks for the same as gRPC's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from tests.builders.certificates import role_files, serial, shown_serial
from tests.builders.rpc import rpc_settings, serving
from vireo.server.errors import VireoError
from vireo.server.inference.http_server import http_endpoint
from vireo.server.inference.service import serve_inference_http
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.tls import TlsFiles
from vireo.server.security.certificates import Authority, Certificates
from vireo.server.security.folder import SecurityFolder


@pytest.fixture
def folder(tmp_path: Path) -> SecurityFolder:
    """One with certificates."""
    folder = SecurityFolder(tmp_path / "security")
    Certificates(folder).renew([])
    return folder


@pytest.fixture
async def port(folder: SecurityFolder, release_folder: Path) -> AsyncIterator[int]:
    """The port of HTTP of a ranking pod with certificates."""
    files = folder.tls("ranking")
    settings = rpc_settings(
        tls_certificate=files.certificate, tls_key=files.key, tls_ca=files.authority
    )
    async with (
        serving(RANKING_POD, release_folder) as (server, _),
        http_endpoint(server, settings, 0) as port,
    ):
        yield port


async def status(port: int, files: TlsFiles | None, authority: Path) -> int | None:
    """The status that a client with these files gets; None if it is refused."""
    context = ssl.create_default_context(cafile=authority)
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"https://127.0.0.1:{port}/v2", ssl=context, server_hostname="ranking.vireo"
            ) as response,
        ):
            return response.status
    except (aiohttp.ClientError, ssl.SSLError):
        return None


async def test_only_clients_that_the_authority_has_signed_are_answered(
    port: int, folder: SecurityFolder, tmp_path: Path
) -> None:
    ours = folder.tls("envoy")
    stranger = role_files(
        tmp_path / "stranger", Authority.new("other"), "envoy", trusts=ours.authority
    )
    for refused in (None, stranger, folder.tls("edge")):
        assert await status(port, refused, ours.authority) is None
    assert await status(port, ours, ours.authority) == 200
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{port}/v2")


async def test_a_renewed_certificate_is_shown_and_a_missing_one_keeps_the_last(
    port: int, folder: SecurityFolder
) -> None:
    client, files = folder.tls("control"), folder.tls("ranking")
    assert await asyncio.to_thread(shown_serial, port, "ranking", client) == serial(files)
    before = serial(files)
    Certificates(folder).renew([])
    assert serial(files) != before
    after = serial(files)
    assert await asyncio.to_thread(shown_serial, port, "ranking", client) == after
    kept = files.certificate.rename(files.certificate.with_suffix(".kept"))
    with structlog.testing.capture_logs() as logs:
        assert await asyncio.to_thread(shown_serial, port, "ranking", client) == after
    assert "the renewed certificate can't be read" in [line["event"] for line in logs]
    kept.rename(files.certificate)


async def test_another_authority_is_trusted_instead_of_the_first_once_it_is_there(
    port: int, folder: SecurityFolder, tmp_path: Path
) -> None:
    old, theirs = folder.tls("envoy"), Authority.new("other")
    kept_authority = tmp_path / "old.crt"
    kept_authority.write_bytes(old.authority.read_bytes())
    fresh_authority = tmp_path / "fresh.crt"
    pem = theirs.certificate.public_bytes(Encoding.PEM)
    fresh_authority.write_bytes(pem)
    fresh = role_files(tmp_path / "fresh", theirs, "envoy", trusts=fresh_authority)
    folder.tls("ranking").authority.write_bytes(pem)
    assert await status(port, fresh, kept_authority) == 200
    assert await status(port, old, kept_authority) is None


async def test_a_file_that_is_no_certificate_is_named_at_the_start(
    folder: SecurityFolder, tmp_path: Path
) -> None:
    files = folder.tls("ranking")
    broken = tmp_path / "broken.crt"
    broken.write_text("nothing")
    settings = rpc_settings(tls_certificate=broken, tls_key=files.key, tls_ca=files.authority)
    with pytest.raises(VireoError, match=r"broken\.crt can't be used"):
        await serve_inference_http(RpcServer(rpc_settings()), settings, 0)


async def test_a_port_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(VireoError, match=f"{port}.*VIREO_OIP_HTTP_PORT"):
        await serve_inference_http(RpcServer(rpc_settings()), rpc_settings(), port)
