"""One connection to a NATS server, which is over for good when it is lost, and reads over it.

Streams are read by pull requests of our own: `nats-py`'s fetch waits until a batch is full or its
time is over, so events would be late.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, SecureConnWantedError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError
from nats.protocol.parser import PERMISSIONS_ERR
from prometheus_client import Gauge

from vireo.server.event_log.settings import EventLogSettings

log = structlog.get_logger()

CONNECTED = Gauge("vireo_log_connected", "1 while the log can be used.")

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 1.8
"""Maximum seconds to wait for an answer: fewer than a question of the log may take in all, after
which it would not be known what the server has said."""
_CLOSE_SECONDS = 0.5
_LOOK_SECONDS = 1.0
"""Seconds between looks whether the client has closed the connection. Its callback says so at once,
but not if it couldn't send what it still had to."""
_PING_SECONDS = 2
"""Seconds between pings; the connection is lost if two aren't answered: the server may be gone for
good with the connection half open, which TCP notices after minutes."""
_BATCH = 500
"""Maximum messages of a request: what a reader that is slow has in memory."""
_MAX_BYTES = 16 << 20
"""Maximum bytes of a request."""
_GONE_SECONDS = 60.0
"""Seconds after which the server forgets a reader that asks for nothing."""
_REQUEST_ENDED = ("404", "408")
"""Statuses: a request has brought all it could. Any other says that the consumer is gone."""
_CONSUMER_GONE = ("Consumer Deleted", "Server Shutdown", "Leadership Change")


class Connection:
    """A connection to one of the log's servers."""

    def __init__(self, settings: EventLogSettings) -> None:
        """Hold the settings; `open` connects."""
        self._settings = settings
        self.client = Client()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the connection is lost."""
        self.server = ""
        """Its host:port, without the credentials that an address may hold."""
        self._error = ""
        """What the server, or the network, said last."""
        self._refusal, self._refused_at = "", 0.0
        """What the server said last that its user may not do, and when, monotonic."""
        self._closed = asyncio.Event()
        """Set once the client says that it has closed the connection."""
        self._watching: asyncio.Task[None] | None = None

    @staticmethod
    async def open(settings: EventLogSettings) -> Connection:
        """Return a connection to one of the servers; each is tried.

        Raises:
            nats.errors.Error, OSError: none can be reached, or it refuses.
        """
        connection = Connection(settings)
        try:
            await connection._open()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _open(self) -> None:
        settings, client = self._settings, self.client
        options: dict[str, Any] = {}
        if settings.nats_user:
            options |= {"user": settings.nats_user, "password": self._token}
        elif settings.nats_token.get_secret_value():
            options["token"] = self._token
        if settings.nats_ca:
            make = ssl.create_default_context
            options["tls"] = await asyncio.to_thread(make, cafile=settings.nats_ca)
        try:
            await client.connect(
                settings.servers,
                connect_timeout=_CONNECT_SECONDS,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=_PING_SECONDS,
                max_outstanding_pings=2,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                **options,
            )
        except (Error, OSError) as error:
            # Once all servers were tried it only says so: what they said comes before.
            reason = self._error or str(error) or type(error).__name__
            refused = "authorization" in reason.lower()
            hint = "; see VIREO_NATS_TOKEN, and VIREO_NATS_USER" if refused else ""
            raise Error(reason + hint) from error
        self._require_tls()
        address = client.connected_url
        self.server = f"{address.hostname}:{address.port}" if address is not None else ""
        log.info("connected to the log", server=self.server)
        self._watching = asyncio.create_task(self._watch())

    @property
    def usable(self) -> bool:
        """Whether it isn't lost, as far as is known by now."""
        return not (self.lost.done() or self.client.is_closed)

    async def part(self) -> None:
        """Part with a server that doesn't answer, if there are others: it may be cut off."""
        if len(self._settings.servers) > 1 and not self.lost.done():
            log.warning("leaving a server of the log that doesn't answer", server=self.server)
            await self.close()

    async def ask(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Send a message, and return what JetStream answers within some seconds, if anything.

        Raises:
            NoRespondersError: nobody listens to the subject; the message went nowhere.
            nats.js.errors.APIError: the server refuses.
            nats.errors.Error: its user may not ask this, or the connection was lost.
            TimeoutError: no answer; it may have been heard or not.
        """
        began = time.monotonic()
        asking = self.client.request(subject, data, seconds, headers=headers)
        request = asyncio.create_task(asking)
        try:
            either: list[asyncio.Future[Any]] = [request, self.lost]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():  # nor would the client say so
                raise ConnectionClosedError
            with _writing():
                message = request.result()
        except NatsTimeoutError as error:
            # What isn't permitted is said apart, and never answered: the server is well.
            if self._refused_at >= began:
                raise Error(self._refusal) from error
            raise TimeoutError from error
        finally:
            request.cancel()
        told: dict[str, Any] = json.loads(message.data or b"{}")
        if "error" in told:
            raise APIError.from_error(told["error"])
        return told

    async def close(self) -> None:
        """Close the connection."""
        self.end()
        if self._watching is not None:
            self._watching.cancel()  # first: the connection isn't lost, it is closed
        # Closing a connection whose TLS handshake has failed would never end.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.client.close()
        if self._watching is not None:
            await asyncio.gather(self._watching, return_exceptions=True)

    def _token(self) -> str:
        self._require_tls()  # before a server gets to see the token
        return self._settings.nats_token.get_secret_value()

    def _require_tls(self) -> None:
        """Refuse a server without TLS if TLS is wanted; `nats-py` leaves it to the server."""
        if self._settings.nats_ca and not self.client._server_info.get("tls_required"):
            raise SecureConnWantedError

    async def _on_error(self, error: Exception) -> None:
        self._error = str(error) or type(error).__name__
        if PERMISSIONS_ERR in self._error:
            self._refusal, self._refused_at = self._error, time.monotonic()

    async def _on_closed(self) -> None:
        self._closed.set()

    async def _watch(self) -> None:
        while not self.client.is_closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._closed.wait()
        reason = self.client.last_error
        log.warning("connection to the log lost", server=self.server, reason=str(reason))
        self.end()

    def end(self) -> None:
        """Have all know that the connection is lost."""
        if not self.lost.done():  # else there may be another connection by now
            CONNECTED.set(0)
            self.lost.set_result(None)


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
        heartbeat: seconds after which the server ends a request, and so says that it is there. It
            counts as gone after two and a half times as long without a word.

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
    wanted = json.dumps({"stream_name": stream, "config": consumer}).encode()
    made = await connection.ask(f"$JS.API.CONSUMER.CREATE.{stream}", wanted)
    client = connection.client
    answers: asyncio.Queue[Msg | None] = asyncio.Queue()  # bounded by what a request asks for
    inbox = client.new_inbox()
    with _writing():
        subscription = await client.subscribe(inbox, cb=answers.put)

    def end(_: asyncio.Future[None]) -> None:
        answers.put_nowait(None)

    connection.lost.add_done_callback(end)
    next_messages = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}"
    asked = {"batch": _BATCH, "max_bytes": _MAX_BYTES, "expires": _nanoseconds(heartbeat)}
    request = json.dumps(asked).encode()
    behind, left, delivered = made.get("num_pending", 0), 0, 0
    try:
        if not behind:
            yield ()
        while True:
            if left <= 0:
                with _writing():
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
            statuses = {_status(each) for each in some if each is not None} - {""}
            if statuses:
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
        connection.lost.remove_done_callback(end)
        with suppress(Error), _writing():
            await subscription.unsubscribe()


@contextmanager
def _writing() -> Iterator[None]:
    """Raise ConnectionClosedError where uvloop finds that the connection has just been closed."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionClosedError from error


def _status(message: Msg) -> str:
    """Return what the server says instead of a message; empty for a message of the stream."""
    headers = message.headers or {}
    status = headers.get("Status", "")
    if status == "409" and headers.get("Description", "") not in _CONSUMER_GONE:
        return "408"  # the request is full, by messages or by bytes
    return status


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
