"""Mutual TLS between processes of ours, and files that are renewed while they run."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import structlog
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.builders.certificates import role_files, serial, shown_serial
from tests.builders.hanging import hanging
from tests.builders.rpc import rpc_settings
from tests.builders.samples import sample
from vireo.server.errors import VireoError
from vireo.server.rpc.health import health_problem
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.tls import RenewedChannel, TlsFiles, tls_name
from vireo.server.security.certificates import Authority, Certificates
from vireo.server.security.folder import SecurityFolder

SERVICE = "vireo.v1.RankingService"


@pytest.fixture
def folder(tmp_path: Path) -> SecurityFolder:
    return SecurityFolder(tmp_path / "security")


@pytest.fixture
def certificates(folder: SecurityFolder) -> Certificates:
    made = Certificates(folder)
    made.renew([])
    return made


@pytest_asyncio.fixture
async def server(folder: SecurityFolder, certificates: Certificates) -> AsyncIterator[RpcServer]:
    """A ranking pod, as far as health goes."""
    files = folder.tls("ranking")
    server = RpcServer(
        rpc_settings(tls_certificate=files.certificate, tls_key=files.key, tls_ca=files.authority)
    )
    server.add(SERVICE, lambda _: None)
    await server.start()
    await server.set_serving(True)
    yield server
    await server.drain()


async def problem(server: RpcServer, tls: TlsFiles | None, role: str = "ranking") -> str:
    return await health_problem(f"127.0.0.1:{server.port}", SERVICE, 30, tls, role)


async def test_only_clients_that_the_authority_has_signed_are_answered(
    server: RpcServer, folder: SecurityFolder, certificates: Certificates, tmp_path: Path
) -> None:
    theirs = Authority.new("other")
    ours = folder.tls("envoy")
    stranger = role_files(tmp_path / "stranger", theirs, "envoy", trusts=ours.authority)
    signer = certificates.signing_authority()
    expired = role_files(
        tmp_path / "expired",
        signer,
        "envoy",
        trusts=ours.authority,
        ends=datetime.now(UTC) - timedelta(seconds=1),
    )
    no_client = folder.tls("edge")
    for refused in (stranger, expired, no_client, None):
        before = sample("vireo_tls_handshakes_total")
        assert await problem(server, refused) == "UNAVAILABLE"
        assert sample("vireo_tls_handshakes_total") > before
    only_roots = grpc.ssl_channel_credentials(ours.authority.read_bytes())
    options = [("grpc.ssl_target_name_override", tls_name("ranking"))]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", only_roots, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await problem(server, ours) == ""
    assert await problem(server, ours, "candidate") == "UNAVAILABLE", "it has another role"


async def test_a_renewed_certificate_is_shown_without_a_restart_and_kept_without_its_file(
    server: RpcServer, folder: SecurityFolder, certificates: Certificates
) -> None:
    client, files = folder.tls("control"), folder.tls("ranking")
    before = serial(files)
    assert await asyncio.to_thread(shown_serial, server.port, "ranking", client) == before
    certificates.renew([])
    assert serial(files) != before
    assert await asyncio.to_thread(shown_serial, server.port, "ranking", client) == serial(files)
    kept = serial(files)
    files.certificate.unlink()
    assert await asyncio.to_thread(shown_serial, server.port, "ranking", client) == kept


async def test_the_end_of_the_certificate_in_use_is_exported(
    server: RpcServer, folder: SecurityFolder, certificates: Certificates, tmp_path: Path
) -> None:
    def ends(file: str) -> float:
        return sample("vireo_certificate_expiry_timestamp_seconds", file=file)

    client, files = folder.tls("control"), folder.tls("ranking")
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    assert ends("authority") == authority.not_valid_after_utc.timestamp()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    assert ends("certificate") != soon.timestamp()
    signer = certificates.signing_authority()
    made = role_files(tmp_path / "new", signer, "ranking", trusts=files.authority, ends=soon)
    for old, new in ((files.certificate, made.certificate), (files.key, made.key)):
        new.replace(old)
    await asyncio.to_thread(shown_serial, server.port, "ranking", client)  # adopts them
    assert ends("certificate") == soon.timestamp()


@pytest.fixture
async def check(
    server: RpcServer, folder: SecurityFolder, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[health_pb2.HealthCheckResponse]]]:
    """Asks the server for its health by one long-lived channel, which looks at its files often."""
    monkeypatch.setattr("vireo.server.rpc.tls._CHECK_SECONDS", 0)
    channel = RenewedChannel(f"127.0.0.1:{server.port}", folder.tls("control"), "ranking")
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    yield lambda: check(health_pb2.HealthCheckRequest(), timeout=30)
    await channel.close()


async def test_a_long_lived_channel_adopts_a_renewed_certificate_without_losing_calls(
    check: Callable[[], Awaitable[health_pb2.HealthCheckResponse]],
    folder: SecurityFolder,
    certificates: Certificates,
) -> None:
    with structlog.testing.capture_logs() as logs:
        for renewals in range(3):
            async with asyncio.timeout(30):
                while True:
                    answer = await check()
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                    if [line["event"] for line in logs].count("channel reopened") == renewals:
                        break
            certificates.renew([])
    shutil.rmtree(folder.current.resolve())
    assert (await check()).status


async def test_while_the_volume_of_certificates_hangs_calls_go_on_and_new_ones_are_taken(
    check: Callable[[], Awaitable[health_pb2.HealthCheckResponse]],
    server: RpcServer,
    folder: SecurityFolder,
) -> None:
    client = folder.tls("envoy")
    with hanging(folder.tls("control").key), hanging(folder.tls("ranking").key):
        for _ in range(3):
            assert (await asyncio.wait_for(check(), 10)).status
            await asyncio.sleep(0.01)
        assert await problem(server, client) == ""


async def test_a_file_that_is_missing_at_the_start_is_named(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    files = folder.tls("ranking")
    server = RpcServer(
        rpc_settings(
            tls_certificate=Path("/nowhere.crt"), tls_key=files.key, tls_ca=files.authority
        )
    )
    with pytest.raises(VireoError, match=r"/nowhere\.crt.*vireo certificates make"):
        await server.start()


def test_some_of_the_files_alone_are_refused(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    with pytest.raises(ValueError, match="VIREO_TLS_KEY"):
        rpc_settings(tls_certificate=folder.tls("ranking").certificate)


@pytest.mark.parametrize("process", ["candidate", "ranking", "gateway", "control"])
def test_no_process_that_serves_needs_what_makes_certificates_and_tokens(
    process: str, folder: SecurityFolder, certificates: Certificates
) -> None:
    files = folder.tls(process)
    script = f"""
import sys
from pathlib import Path

sys.modules.update(cryptography=None, jwt=None)
import vireo.server.{process}.__main__
from vireo.server.rpc.tls import TlsFiles

files = TlsFiles(*map(Path, sys.argv[1:]))
assert files.server_credentials() and files.channel_credentials()
"""
    paths = map(str, (files.certificate, files.key, files.authority))
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
