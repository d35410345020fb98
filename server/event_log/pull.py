"""Reads a JetStream stream by pull requests.

`nats-py`'s own fetch waits until a batch is full or its time is over: events would be late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from nats.aio.msg import Msg
from nats.errors import Error

from vireo.server.event_log.nats_connection import Connection

_BATCH = 500
"""Maximum messages of a request: what a reader that is slow has in memory."""
_MAX_BYTES = 16 << 20
"""Maximum bytes of a request."""
_EXPIRES_SECONDS = 30.0
"""Seconds after which the server ends a request, if it isn't full."""
_GONE_SECONDS = 60.0
"""Seconds after which the server forgets a reader that asks for nothing."""
_REQUEST_ENDED, _ALIVE = ("404", "408"), "100"
"""Statuses: a request has brought all it could; and nothing has come yet. Any other says that the
consumer is gone."""
_CONSUMER_GONE = ("Consumer Deleted", "Server Shutdown", "Leadership Change")


async def pull(
    connection: Connection, stream: str, subject: str, after: int, heartbeat: float
) -> AsyncGenerator[Sequence[Msg], None]:
    """Yield the messages of a stream after a position, as they come; nothing if none has come.

    It yields nothing, too, as soon as all that was there has come, and never before.
    Ends if the connection is lost or the server lost its consumer: read again from there.

    Args:
        connection: to a server.
        stream: the stream's name.
        subject: which of its messages.
        after: the last position that was read.
        heartbeat: seconds after which the server says that nothing has come. It counts as gone
            after two and a half without a word.

    Raises:
        nats.errors.Error, TimeoutError: the server doesn't answer, or refuses.
    """
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1} if after else {}
    consumer = {
        "deliver_policy": "all",
        "filter_subject": subject,
        "ack_policy": "none",
        "inactive_threshold": _nanoseconds(_GONE_SECONDS),
        "mem_storage": True,
        "num_replicas": 1,
        **start,
    }
    asked = json.dumps({"stream_name": stream, "config": consumer}).encode()
    made = await connection.ask(f"$JS.API.CONSUMER.CREATE.{stream}", asked)
    client = connection.client
    answers: asyncio.Queue[Msg | None] = asyncio.Queue()  # bounded by what a request asks for
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=answers.put)
    lost = asyncio.create_task(_tell(connection.lost, answers))
    next_messages = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}"
    request = json.dumps(
        {
            "batch": _BATCH,
            "max_bytes": _MAX_BYTES,
            "expires": _nanoseconds(_EXPIRES_SECONDS),
            "idle_heartbeat": _nanoseconds(heartbeat),
        }
    ).encode()
    behind, left, delivered = made.get("num_pending", 0), 0, 0
    try:
        if not behind:
            yield ()
        while True:
            if left <= 0:
                await client.publish(next_messages, request, reply=inbox)
                left = _BATCH
            async with asyncio.timeout(2.5 * heartbeat):
                some = [await answers.get()]
            while not answers.empty():
                some.append(answers.get_nowait())
            messages = [each for each in some if each is not None and not _status(each)]
            if messages:
                delivered += len(messages)
                last = messages[-1].metadata
                if last.sequence.consumer != delivered:
                    raise Error("messages are missing")  # the client dropped some
            left -= len(messages)
            if messages or not behind:
                yield messages
            statuses = {_status(each) for each in some if each is not None} - {"", _ALIVE}
            if not statuses.isdisjoint(_REQUEST_ENDED):
                left = 0
            if None in some or not statuses.issubset(_REQUEST_ENDED):
                return
            if behind:
                if messages:
                    behind = last.num_pending
                else:  # retention may have taken what was pending
                    info = await connection.ask(f"$JS.API.CONSUMER.INFO.{stream}.{made['name']}")
                    on_their_way = info["delivered"]["consumer_seq"] - delivered
                    behind = info["num_pending"] + on_their_way
                if not behind:
                    yield ()
    finally:
        lost.cancel()
        with suppress(Error):
            await subscription.unsubscribe()


async def _tell(lost: asyncio.Event, answers: asyncio.Queue[Msg | None]) -> None:
    await lost.wait()
    answers.put_nowait(None)


def _status(message: Msg) -> str:
    """Return what the server says instead of a message; empty for a message of the stream."""
    headers = message.headers or {}
    status = headers.get("Status", "")
    if status == "409" and headers.get("Description", "") not in _CONSUMER_GONE:
        return "408"  # the request is full, by messages or by bytes
    return status


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
