"""The keys that tokens are checked by: from a file or a URL, followed, and never secret ones."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.builders.certificates import authority, signed
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.control.attempts import Attempts
from vireo.server.control.keys import checked, follow_keys
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError

KEY = {"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "kid": "first"}
TRICKLES = "a body that comes byte by byte, and never ends"


def jwks(*keys: object) -> str:
    return json.dumps({"keys": keys})


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def key_server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Yield where an identity provider is that answers so."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


async def send(writer: asyncio.StreamWriter, body: str, status: int = 200) -> None:
    """Answer a request at once."""
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write((head + body).encode())
    writer.close()


@asynccontextmanager
async def following(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[str], Attempts]]:
    """Yield the keys that are published from a source, and the attempts to read it."""
    monkeypatch.setattr("vireo.server.control.keys._FILE_SECONDS", 0.02)
    monkeypatch.setattr("vireo.server.control.keys._URL_SECONDS", 0.02)
    published: list[str] = []
    attempts = Attempts("keys")
    task = asyncio.create_task(follow_keys(source, published.append, attempts))
    yield published, attempts
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "not a JSON Web Key Set"),
        ("[]", "not a JSON Web Key Set"),
        ('{"keys": [{}]}', "not a JSON Web Key Set"),
        (jwks(), "no keys"),
        (jwks({"kty": "oct", "k": "c2VjcmV0"}), "isn't public"),
        (jwks({**KEY, "d": "private"}), "isn't public"),
        ("[" * 100_000, "not a JSON Web Key Set"),
        ('{"keys": [{"kty": "EC", "x": NaN}]}', "key 1 is invalid"),
        (jwks({"kty": "RSA"}), "key 1 is invalid"),
        (jwks(KEY, {**KEY, "x": 7}), "key 2 is invalid"),
        (jwks({**KEY, "kid": ["a"]}), "key 1 is invalid"),
        (jwks(*[KEY] * 101), "more than 100 keys"),
    ],
)
def test_only_public_keys_are_taken(text: str, why: str) -> None:
    with pytest.raises(VireoError, match=why):
        checked(text.encode(), "somewhere")


def test_only_what_verifies_tokens_is_published_alike_whatever_its_format() -> None:
    turned = {**dict(reversed(KEY.items())), "x5c": ["certificate"], "deep": [[[["a"]]]]}
    text = json.dumps({"keys": [turned]}, indent=3)
    assert checked(text.encode(), "a") == checked(jwks(KEY).encode(), "b")


async def test_a_file_is_followed_and_invalid_or_endless_content_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwks.json"
    async with following(str(path), monkeypatch) as (published, attempts):
        await until(lambda: attempts.failures >= 2)
        assert published == []
        path.write_text(jwks(KEY))
        await until(lambda: len(published) == 1)
        for odd in (jwks({"kty": "oct", "k": "c2VjcmV0"}), Path("/dev/zero"), Path("/")):
            before = attempts.failures
            path.unlink()
            path.write_text(odd) if isinstance(odd, str) else path.symlink_to(odd)
            await until(lambda: attempts.failures >= before + 2)  # noqa: B023
        assert len(published) == 1
        path.unlink()
        path.write_text(jwks({**KEY, "kid": "second"}))
        await until(lambda: len(published) == 2)
        assert "second" in published[1]


async def test_a_url_is_followed_and_its_failures_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.control.keys._FETCH_SECONDS", 0.5)
    status, body = 503, jwks(KEY)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body != TRICKLES:
            await send(writer, body, status)
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    async with (
        key_server(answer) as place,
        following(f"http://{place}", monkeypatch) as (published, attempts),
    ):
        await until(lambda: attempts.failures >= 2)
        assert published == []
        status = 200
        await until(lambda: len(published) == 1)
        faults = (500, jwks(KEY)), (200, "x" * (2 << 20)), (302, ""), (200, TRICKLES)
        for status, body in faults:  # noqa: B007
            before = attempts.failures
            await until(lambda: attempts.failures >= before + 2)  # noqa: B023
        assert len(published) == 1
        status, body = 200, jwks({**KEY, "kid": "second"})
        await until(lambda: len(published) == 2)


def test_a_source_that_was_read_once_is_asked_again_ever_more_rarely() -> None:
    def pauses() -> list[float]:
        found = []
        for _ in range(9):
            attempts.failed(VireoError("away"))
            found.append(attempts.pause(60))
        return found

    attempts = Attempts("keys")
    assert pauses() == [0.5, 1, *[2] * 7], "the start waits for it"
    attempts.succeeded()
    assert attempts.pause(60) == 60
    assert pauses() == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


async def test_keys_come_by_tls_from_a_provider_whose_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = authority(tmp_path)
    certificate = signed(tmp_path, "provider", trusted)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate.certificate, certificate.key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await send(writer, jwks(KEY))

    async with (
        key_server(answer, tls) as place,
        following(f"https://{place}", monkeypatch) as (published, attempts),
    ):
        await until(lambda: attempts.failures >= 2)
        assert published == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted.certificate))
        await until(lambda: len(published) == 1)


@pytest.mark.parametrize("url", ["http://keys.example/jwks", "ftp://127.0.0.1/jwks"])
def test_keys_that_anyone_could_have_put_there_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        ControlSettings(jwks=url, s3=unreachable_s3())


def test_pods_and_envoy_speak_mutual_tls_together_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VIREO_ENVOY_SECRETS"):
        ControlSettings(envoy_secrets=tmp_path, s3=unreachable_s3())
