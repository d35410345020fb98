"""A home with a small data set beside a real log, which data sets are made from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tests.builders import event_batches
from tests.builders.nats import RunningNats, settings_of, with_log
from vireo.server.event_log.connection import Connection
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, Stream, partition_of
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, load_dataset
from vireo.training.data.from_events import data_from_events
from vireo.v1 import catalog_pb2, event_pb2, log_pb2

PARTITIONS = 2


def append_messages(nats: RunningNats, stream: Stream, *messages: tuple[str, bytes]) -> int:
    """Append messages with their keys, and return the position of the last."""

    async def append(log: JetStreamLog) -> int:
        return [await log.append(stream, key, data) for key, data in messages][-1]

    position: int = with_log(nats, append)
    return position


def purge_events(nats: RunningNats, first: int) -> None:
    """Have the log keep what begins with a sequence, as retention does."""

    async def ask() -> None:
        connection = await Connection.open(settings_of(nats))
        asked = json.dumps({"seq": first}).encode()
        await connection.ask("$JS.API.STREAM.PURGE.vireo_events", asked)
        await connection.close()

    asyncio.run(ask())


@dataclass(frozen=True)
class LoggedData:
    """Data set "small" in a home, and the log of what came since."""

    nats: RunningNats
    home: Home

    def record(self, *messages: Sequence[event_pb2.Event]) -> None:
        """Append events, each to the partition of its viewer."""
        parted = [
            (str(partition), event_batches.message(own))
            for events in messages
            for partition in range(PARTITIONS)
            if (own := [e for e in events if partition_of(e.viewer_id, PARTITIONS) == partition])
        ]
        append_messages(self.nats, EVENTS, *parted)

    def change(self, *changes: log_pb2.CatalogChange, stream: Stream = CATALOG) -> None:
        """Append changes of the catalogue."""
        keyed = [
            (f"{video_key(each.video.video_id) % (1 << 64):016x}", each.SerializeToString())
            for each in changes
        ]
        append_messages(self.nats, stream, *keyed)

    def replace_log(self) -> None:
        """Start a server that has nothing."""
        self.nats.kill()
        self.nats.forget()
        self.nats.start()

    def made(self, base: str | None = "small", name: str = "live", **options: Any) -> DatasetInfo:
        """Make a data set of a base and the log; over itself only by force."""
        log, force = JetStreamLog(settings_of(self.nats)), options.pop("force", base == name)
        return data_from_events(self.home, name, base, log, PARTITIONS, force=force, **options)

    def of_viewer(self, viewer: str) -> pd.DataFrame:
        """What the made data set has of a viewer, by time."""
        found = load_dataset(self.home, "live").interactions
        return found[found["viewer_id"] == viewer].sort_values("timestamp")


def event(
    number: int, viewer: str, video: str, kind: str = "PLAY", second: int = 0, **more: float
) -> event_pb2.Event:
    """An event of a number of seconds after some moment."""
    what = event_pb2.EventKind.Value(f"EVENT_KIND_{kind}")
    made = event_batches.event(viewer, video, what, 1_700_000_000 + second, **more)
    made.event_id = f"e{number}"
    return made


def upserted(video_id: str, **more: Any) -> log_pb2.CatalogChange:
    """A video that was added or changed."""
    return log_pb2.CatalogChange(video=catalog_pb2.Video(video_id=video_id, **more))


def removed(video_id: str) -> log_pb2.CatalogChange:
    """A video that was taken down."""
    return log_pb2.CatalogChange(video=catalog_pb2.Video(video_id=video_id), removed=True)
