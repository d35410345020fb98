"""The base of both clients: one connection, and how calls are prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from vireo_client.channel import Options, channel_options
from vireo_client.credentials import BearerToken, Tls
from vireo_client.methods import Method
from vireo_client.request import Call, Metadata, identity

_WRITE_SECONDS = 5.0  # the server's own default


class Connection:
    """One connection to a Vireo stack, for any number of calls."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        token: str | Callable[[], str] | None = None,
        timeout: float = 1.0,
        attempts: int = 3,
        options: Options = (),
    ) -> None:
        """Prepare a connection, which is opened on the first call and reopened if lost.

        Args:
            target: `host:port`, or another name that gRPC resolves, such as `dns:///host:port`.
            tls: trusted authorities, and the client certificate if any; None for plaintext.
            token: bearer token, or a function that returns the current one; it is called for
                every call, from any thread, and must not block. Needs `tls`.
            timeout: timeout of a call in seconds, with retries; 5 or more for calls that write.
            attempts: maximum attempts of a call that writes nothing if it gets UNAVAILABLE, 1 to
                5. Unless it is 1, a call that an overloaded server shed, or of events or the
                catalogue that gets UNAVAILABLE, is retried once after the server's delay, if the
                timeout allows it.
            options: further gRPC channel arguments, which take precedence over the client's.

        Raises:
            ValueError: attempts is out of bounds, or there is a token without TLS.
        """
        if token is not None and tls is None:
            raise ValueError("a token must not be sent in plain text: pass tls too")
        self._token = BearerToken(token) if token is not None else None
        self._timeout = timeout
        self._repeats = 1 if attempts > 1 else 0
        self._closed = False
        credentials = tls.channel_credentials() if tls else None
        self._open(target, credentials, channel_options(attempts, options))

    def _call(
        self,
        method: Method[Any],
        build: Callable[[], Any],
        timeout: float | None,
        request_id: str,
        metadata: Metadata,
    ) -> Call[Any]:
        if timeout is None:
            timeout = max(self._timeout, _WRITE_SECONDS if method.writes else 0)
        return Call(method, build, timeout, identity(request_id), metadata)

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        """Open the channel; plaintext without credentials."""
        raise NotImplementedError

    def _send(self, call: Call[Any]) -> Any:
        """Make one call."""
        raise NotImplementedError

    def _stream(self, call: Call[Any]) -> Any:
        """Make one call with a stream of requests."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _call_credentials(self) -> grpc.CallCredentials | None:
        """Return the credentials for one call; None without a token."""
        return self._token.call_credentials() if self._token else None
