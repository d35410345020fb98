"""Reads a JetStream stream by pull requests.

`nats-py`'s own fetch waits until a batch is full or its time is over: events would be late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

_BATCH = 500
"""Maximum messages of a request."""
_EXPIRES_SECONDS = 30.0
"""Seconds after which the server ends a request, if it isn't full."""
_HEARTBEAT_SECONDS = 10.0
"""Seconds after which the server says that nothing has come."""
_GONE_SECONDS = 60.0
"""Seconds after which the server forgets a reader that asks for nothing."""
_SILENT_SECONDS = 25.0
"""Seconds without even a heartbeat after which the server counts as gone."""
_REQUEST = json.dumps(
    {
        "batch": _BATCH,
        "max_bytes": 16 << 20,
        "expires": int(_EXPIRES_SECONDS * 1e9),
        "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
    }
).encode()
_CONSUMER_GONE = ("Consumer Deleted", "Server Shutdown", "Leadership Change")
_REQUEST_ENDED, _ALIVE = ("404", "408"), "100"
"""Statuses: a request has brought all it could; and nothing has come yet. Any other says that the
consumer is gone."""


async def pull(
    client: Client, stream: str, subject: str, after: int, reconnected: asyncio.Event
) -> AsyncIterator[Sequence[Msg]]:
    """Yield the messages of a stream after a position, as they come; nothing if none has come.

    Ends if the connection was renewed or the server lost its consumer: read again from there.

    Args:
        client: a connection.
        stream: the stream's name.
        subject: which of its messages.
        after: the last position that was read.
        reconnected: set if the connection was lost and made again.

    Raises:
        nats.errors.Error: the server doesn't answer, or refuses.
    """
    streams = client.jetstream()
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if after else DeliverPolicy.ALL,
        opt_start_seq=after + 1 if after else None,
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=_GONE_SECONDS,
        mem_storage=True,
        num_replicas=1,
    )
    consumer = await streams.add_consumer(stream, config)
    answers: asyncio.Queue[Msg | None] = asyncio.Queue()  # bounded by what a request asks for
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=answers.put)
    lost = asyncio.create_task(_tell(reconnected, answers))
    behind, left = consumer.num_pending or 0, 0
    try:
        if not behind:
            yield ()
        while True:
            if left <= 0:
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer.name}"
                await client.publish(subject, _REQUEST, reply=inbox)
                left = _BATCH
            async with asyncio.timeout(_SILENT_SECONDS):
                some = [await answers.get()]
            while not answers.empty():
                some.append(answers.get_nowait())
            messages = [each for each in some if each is not None and not _status(each)]
            left -= len(messages)
            ended = [_status(each) for each in some if each is not None and _status(each)]
            if any(status in _REQUEST_ENDED for status in ended):
                left = 0
            if messages or not left:
                yield messages
            if messages and behind:
                behind = messages[-1].metadata.num_pending
                if not behind:
                    yield ()
            if None in some or any(status not in (*_REQUEST_ENDED, _ALIVE) for status in ended):
                return
    finally:
        lost.cancel()
        with suppress(ConnectionClosedError):
            await subscription.unsubscribe()


async def _tell(reconnected: asyncio.Event, answers: asyncio.Queue[Msg | None]) -> None:
    await reconnected.wait()
    answers.put_nowait(None)


def _status(message: Msg) -> str:
    """Return what the server says instead of a message; empty for a message of the stream."""
    headers = message.headers or {}
    status = headers.get("Status", "")
    if status == "409" and headers.get("Description", "") not in _CONSUMER_GONE:
        return "408"  # the request is full, by messages or by bytes
    return status
