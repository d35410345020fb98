"""Measure what no other benchmark has: `python -m bench.capacity.measure FEATURES [HOME]`.

The figures replace those in `report/capacity.json`, in which those of others are written by hand.

The memory and the processor time of Redis for viewers' rows, the bytes of an event in the log and
how many messages a second it stores, and the memory of the processes of a stack that runs on HOME.
Bytes and memory don't depend on how busy the machine is, processor time little; messages do.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from pydantic import SecretStr

from bench.capacity.plan import MEASURED, Demand
from tests.builders.nats import running_nats, settings_of
from tests.builders.redis import running_redis
from vireo.ops.stack.state import running_stack
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, open_rows
from vireo.server.features.redis_store import RedisStore
from vireo.server.features.viewer_rows import Change, ViewerRow
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.v1 import event_pb2, log_pb2

_READS = 4_000
ROWS = {100: 2_000, 1_200: 200, 5_000: 200}
"""Watches of a row, of which 5,000 are the maximum, and how many viewers have one."""
_BATCHES = 500
_WRITERS, _APPEND_SECONDS = 32, 5.0
"""As many calls as a gateway works on at a time, and for how long they append a message each."""


def measure(features: Path, home: Path | None, scratch: Path) -> dict[str, Any]:
    """Return the figures.

    Args:
        features: a feature folder, of which the definitions count.
        home: home of a running stack; None to leave its processes out.
        scratch: an empty folder.

    Raises:
        VireoError: a server doesn't start.
    """
    rows = {watches: store(features, scratch, watches) for watches in ROWS}
    figures = {
        "row_bytes": {watches: round(size) for watches, (size, _) in rows.items()},
        "store_ms": round(rows[100][1], 4),
        "event_bytes": round(asyncio.run(event_bytes(scratch)), 1),
        "appends": {
            "default": asyncio.run(_appends(scratch / "default")),
            "durable": asyncio.run(_appends(scratch / "durable", sync_interval="always")),
        },
    }
    return figures | ({"process_mb": _process_mb(home)} if home else {})


def store(features: Path, scratch: Path, watches: int, reads: int = _READS) -> tuple[float, float]:
    """Return the bytes of a row with watches, and the milliseconds of Redis for a slate's reads."""
    repo, viewers = scratch / f"features-{watches}", ROWS[watches]
    shutil.copytree(features, repo, ignore=shutil.ignore_patterns("*.parquet", "online.db*"))
    with running_redis(scratch / "valkey") as server:
        configuration = yaml.safe_load((repo / CONFIGURATION).read_text())
        configuration["online_store"] = {"type": "redis"}
        (repo / CONFIGURATION).write_text(yaml.safe_dump(configuration))
        redis = RedisSettings(url=SecretStr(server.url))
        rows = open_rows(repo, 10.0, redis)
        assert isinstance(rows, RedisStore)
        before = rows.redis.info()["used_memory"]
        for start in range(0, viewers, 100):
            some = range(start, start + 100)
            rows.write({f"viewer-{each:012}": _change(each, watches) for each in some})
        row_bytes = (rows.redis.info()["used_memory"] - before) / viewers
        reader = FeatureReader(repo, 10.0, redis)
        before = _processor_seconds(rows.redis.info())
        asyncio.run(_read(reader, viewers, reads))
        spent = _processor_seconds(rows.redis.info()) - before
        rows.close()
    return row_bytes, spent / reads * 1000


def _change(viewer: int, watches: int) -> Change:
    random = np.random.default_rng(viewer)
    keys = random.integers(-(2**63), 2**63 - 1, watches).tolist()
    times = np.sort(random.integers(1_600_000_000, 1_700_000_000, watches)) * 1_000_000
    watched = dict(zip(keys, times.tolist(), strict=True))
    return Change(ViewerRow(watched, frozenset(keys[::3]), watches, 30))


def _processor_seconds(info: dict[str, float]) -> float:
    return info["used_cpu_user"] + info["used_cpu_sys"]


async def _read(reader: FeatureReader, viewers: int, reads: int) -> None:
    for number in range(reads):
        await reader.read(f"viewer-{number % viewers:012}", 10.0)


async def _appends(folder: Path, **jetstream: str) -> int:
    """Return the messages a second that a log on one server acknowledges."""
    with running_nats(folder, None, **jetstream) as server:
        log, stored = JetStreamLog(settings_of(server)), 0
        ends = time.monotonic() + _APPEND_SECONDS

        async def write(_: int) -> None:
            nonlocal stored
            while time.monotonic() < ends:
                await log.append(EVENTS, "0", b"x" * 400)
                stored += 1

        await asyncio.gather(*map(write, range(_WRITERS)))
        await log.close()
    return int(round(stored / _APPEND_SECONDS, -2))


async def event_bytes(scratch: Path) -> float:
    """Return the bytes of an event in the log: those of the messages of a slate, as stored."""
    demand, at = Demand(0), 1_700_000_000
    with running_nats(scratch / "nats") as server:
        log = JetStreamLog(settings_of(server))
        for batch in range(_BATCHES):
            event = event_pb2.Event(
                event_id=f"6f1f3b9c-9a55-4b7e-8f0e-{batch:012}",
                viewer_id=f"viewer-{batch:012}",
                kind=event_pb2.EVENT_KIND_IMPRESSION,
                video_id="dQw4w9WgXcQ",
                request_id="9f2e5b1c4d3a49d0b5d8f5a7c6e1f203",
                position=3,
                locale="de-CH",
                device="phone",
                time_zone="Europe/Zurich",
            )
            event.time.seconds, event.time.nanos = at + batch, 123_000_000
            impressions = log_pb2.RecordedEvents(events=[event] * int(demand.shown))
            impressions.received_at.CopyFrom(event.time)
            one = log_pb2.RecordedEvents(events=[event], received_at=event.time)
            for number, each in enumerate([impressions] + [one] * int(demand.plays)):
                once = f"0.{batch:032}.{number}"
                await log.append(EVENTS, "0", each.SerializeToString(), once)
        stored = (await log.describe(EVENTS))["state"]["bytes"]
        await log.close()
    return float(stored / (_BATCHES * demand.events))


def _process_mb(home: Path) -> dict[str, int]:
    """Return the resident memory by kind of process, the largest of each kind."""
    stack = running_stack(Home(home))
    found: dict[str, int] = {}
    for each in stack.processes if stack else ():
        role = re.sub(r"-\d+$", "", each.name)
        if each.pid is not None:
            megabytes = round(psutil.Process(each.pid).memory_info().rss / 1e6)
            found[role] = max(found.get(role, 0), megabytes)
    return {role: found[role] for role in ("envoy", "gateway", "consumer", "control")}


if __name__ == "__main__":
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(each) for each in sys.argv[1:]]
        found = measure(given[0], given[1] if len(given) > 1 else None, Path(folder))
    costs = json.loads(MEASURED.read_text())
    found["process_mb"] = costs["process_mb"] | found.get("process_mb", {})
    MEASURED.write_text(json.dumps(costs | found, indent=2) + "\n")
    sys.stdout.write(f"wrote {MEASURED} after {time.monotonic() - begun:.0f} s\n")
