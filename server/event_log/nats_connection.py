"""One connection to a NATS server, which is over for good when it is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from contextlib import suppress
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, NoRespondersError, SecureConnWantedError
from nats.js.errors import APIError
from prometheus_client import Gauge

from vireo.server.event_log.settings import EventLogSettings

log = structlog.get_logger()

CONNECTED = Gauge("vireo_log_connected", "1 while the log can be used.")

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 2.0
"""Maximum seconds to wait for an answer."""
_CLOSE_SECONDS = 0.5
_PING_SECONDS = 20
"""Seconds between pings; the connection is lost if two aren't answered."""
_ALIVE_SECONDS = 1.0
_LOOK_SECONDS = 0.5
"""Seconds between two looks whether the server owes an answer for too long."""
_NO_RESPONDERS = "503"


class Connection:
    """A connection whose requests fail at once when it is lost: `nats-py`'s own wait."""

    def __init__(self, settings: EventLogSettings) -> None:
        """Hold the settings; `open` connects."""
        self._settings = settings
        self.client = Client()
        self.lost = asyncio.Event()
        self.server = ""
        """Its host:port, without the credentials that an address may hold."""
        self._error = ""
        """What the server, or the network, said last."""
        self._inbox = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg | None]] = {}
        self._asked_at: float | None = None
        """When the first request was sent since the last answer."""
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
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        self._watching = asyncio.create_task(self._watch())
        log.info("connected to the log", server=self.server)

    async def _watch(self) -> None:
        """Leave a server that answers nobody: each caller may leave before it times out."""
        while not self.lost.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            if self._asked_at is not None and now - self._asked_at > _ANSWER_SECONDS:
                await self.leave()

    async def leave(self) -> None:
        """Part with a server that doesn't answer, unless it is alive and the only one."""
        if self.lost.is_set():
            return
        if len(self._settings.servers) == 1:
            try:
                await self.client.rtt(timeout=_ALIVE_SECONDS)  # type: ignore[arg-type]  # any number
            except (Error, OSError):
                pass
            else:
                self._asked_at = None
                return
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
            nats.errors.Error, TimeoutError: no answer; it may have been heard or not.
        """
        inbox = f"{self._inbox}.{next(self._numbers)}"
        answer: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._waiting[inbox] = answer
        if self._asked_at is None:
            self._asked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                await self.client.publish(subject, data, reply=inbox, headers=headers)
                message = await answer
        except TimeoutError as error:
            raise TimeoutError(self._error or "no answer in time") from error
        finally:
            del self._waiting[inbox]
        if message is None:
            raise ConnectionClosedError
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            raise NoRespondersError
        told: dict[str, Any] = json.loads(message.data or b"{}")
        if "error" in told:
            raise APIError.from_error(told["error"])
        return told

    async def close(self) -> None:
        """Close the connection."""
        self._end()
        # Closing a connection whose TLS handshake has failed would never end.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.client.close()

    def _token(self) -> str:
        self._require_tls()  # before a server gets to see the token
        return self._settings.nats_token.get_secret_value()

    def _require_tls(self) -> None:
        """Refuse a server without TLS if TLS is wanted; `nats-py` leaves it to the server."""
        if self._settings.nats_ca and not self.client._server_info.get("tls_required"):
            raise SecureConnWantedError

    async def _on_answer(self, message: Msg) -> None:
        self._asked_at = None
        answer = self._waiting.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        self._error = str(error) or type(error).__name__

    async def _on_closed(self) -> None:
        if self._inbox and not self.lost.is_set():
            reason = self.client.last_error
            log.warning("connection to the log lost", server=self.server, reason=str(reason))
        self._end()

    def _end(self) -> None:
        if not self.lost.is_set():  # else there may be another connection by now
            CONNECTED.set(0)
        self.lost.set()
        if self._watching is not None and self._watching is not asyncio.current_task():
            self._watching.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)
