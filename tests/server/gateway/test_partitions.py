"""A process whose number of partitions isn't the log's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.builders.nats import running_nats, settings_of
from vireo.ops.stack.nats import log_environment
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS
from vireo.server.event_log.settings import EventLogSettings

_GATEWAY = """
from vireo.server.event_log.jetstream import open_log
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.live.live import Live
from vireo.server.rpc.server import run_process

async def serve():
    settings = GatewaySettings(port=1)
    await Live(open_log(settings.event_log), settings.live, videos=False).run()

run_process(serve)
"""


async def fix(settings: EventLogSettings) -> None:
    """Make a log that has the number of partitions of the settings."""
    log = JetStreamLog(settings)
    await log.append(EVENTS, "0", b"x")
    await log.close()


def test_a_gateway_ends_with_one_line_that_names_both_numbers(tmp_path: Path) -> None:
    with running_nats(tmp_path) as nats:
        asyncio.run(fix(settings_of(nats)))
        environment = {
            "VIREO_S3_ENDPOINT": "127.0.0.1:1",
            "VIREO_S3_ACCESS_KEY": "unused",
            "VIREO_S3_SECRET_KEY": "unused",
            **log_environment(settings_of(nats, event_partitions=4)),
        }
        done = subprocess.run(
            [sys.executable, "-c", _GATEWAY], env=environment, text=True, capture_output=True
        )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: VIREO_EVENT_PARTITIONS=4, but the log's events have 1 partition")
    assert "Traceback" not in done.stderr + done.stdout
