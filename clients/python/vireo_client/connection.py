"""The connection of both clients: its channel, credentials, and how calls are prepared."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import grpc

from vireo_client.calls import ARGUMENTS, METHODS, REPEAT, TABLE, Call, Method, identity
from vireo_client.errors import REQUEST_ID
from vireo_client.inputs import check_zone
from vireo_client.version import __version__

Options = Sequence[tuple[str, Any]]
Token = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A bearer token, or a function that returns the current one."""

_MAX_ATTEMPTS = 5
"""gRPC's own maximum."""
_WRITE_SECONDS: float = REPEAT["writeTimeoutSeconds"]  # the server's own default


@dataclass(frozen=True)
class Tls:
    """TLS, and mutual TLS with a client certificate; all in PEM.

    Files are read once: create another client after a certificate was renewed.
    """

    root_certificates: bytes | None = None
    """Trusted authorities of the server's certificate; gRPC's default list if None."""
    certificate_chain: bytes | None = None
    """This client's certificate and intermediate ones."""
    private_key: bytes | None = field(default=None, repr=False)
    """Private key of the client certificate."""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a certificate and its private key go together: give both or neither")

    @classmethod
    def from_files(
        cls,
        root_certificates: str | Path | None = None,
        certificate_chain: str | Path | None = None,
        private_key: str | Path | None = None,
    ) -> Tls:
        """Read each from a file.

        Raises:
            OSError: a file can't be read.
            ValueError: only one of certificate and private key is given.
        """
        paths = (root_certificates, certificate_chain, private_key)
        return cls(*(None if path is None else Path(path).read_bytes() for path in paths))

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's channel credentials."""
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.private_key, self.certificate_chain
        )


class Connection(ABC):
    """One connection to a Vireo stack, for any number of calls."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        timeout: float = 1.0,
        attempts: int = 3,
        options: Options = (),
        interceptors: Sequence[Any] = (),
        channel: Any = None,
    ) -> None:
        """Prepare a connection, which is opened on the first call and reopened if lost.

        Args:
            target: `host:port`, or another name that gRPC resolves, such as `dns:///host:port`.
            tls: trusted authorities, and the client certificate if any; None for plaintext.
            token: bearer token, or a function that returns the current one, which is called for
                every call and must not block; of an AsyncClient it may be asynchronous. Needs
                `tls`, or a channel of your own.
            timeout: timeout of a call in seconds, with retries; 5 or more for calls that write.
            attempts: maximum attempts of a call that writes nothing if it gets UNAVAILABLE, 1 to
                5. Unless it is 1, a call that an overloaded server shed, or of events or the
                catalogue that gets UNAVAILABLE, is retried once after the server's delay, if the
                timeout allows it.
            options: further gRPC channel arguments, which take precedence over the client's.
            interceptors: gRPC's own, of `grpc` for a Client and of `grpc.aio` for an AsyncClient,
                the first outermost.
            channel: a channel of your own to use instead of one to `target`. It stays open, and
                its options and interceptors are yours: without retries of its own unless its
                service configuration has some.

        Raises:
            ValueError: attempts is out of bounds, there is a token without TLS, or a channel of
                your own with what it can't be given any more.
        """
        if channel is not None and (tls or options or interceptors):
            raise ValueError("tls, options and interceptors are those of your own channel")
        if token is not None and tls is None and channel is None:
            raise ValueError("a token must not be sent in plain text: pass tls too")
        self._token = token
        # Those of the latest token, which most calls have.
        self._credentials = lru_cache(1)(grpc.access_token_call_credentials)
        self._timeout = timeout
        self._repeats = 1 if attempts > 1 else 0
        self._closed = False
        self._owns_channel = channel is None
        if channel is None:
            settings = _options(attempts, options)
            opened = partial(self._grpc.insecure_channel, target, settings)
            if tls:
                credentials = tls.channel_credentials()
                opened = partial(self._grpc.secure_channel, target, credentials, settings)
            channel = self._open(opened, interceptors)
        self._channel: Any = channel
        self._methods = {each: each.on(self._channel) for each in METHODS}

    _grpc: Any
    """The module that channels are of."""

    @abstractmethod
    def _open(self, opened: Callable[..., Any], interceptors: Sequence[Any]) -> Any:
        """Return what `opened` does, a channel, with interceptors."""

    def _call(self, method: Method, build: Callable[[], Any], how: Mapping[str, Any]) -> Call:
        check_zone(how.get("time"))
        if unknown := how.keys() - ARGUMENTS:
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        timeout = how.get("timeout")
        if timeout is None:
            timeout = max(self._timeout, _WRITE_SECONDS if method.writes else 0)
        request_id = identity(how.get("request_id", ""))
        return Call(method, build, timeout, request_id, how.get("metadata", ()))

    def _begin(
        self, call: Call, request: Any, token: str | None, timeout: float | None = None
    ) -> Any:
        """Begin a call; what it returns is a response, or an awaitable or an iterator of some.

        Raises:
            ValueError: the client is closed.
        """
        self._check_open()
        return self._methods[call.method](
            request,
            timeout=call.timeout if timeout is None else timeout,
            metadata=((REQUEST_ID, call.request_id), *call.metadata),
            credentials=None if token is None else self._credentials(token),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")


def _options(attempts: int, further: Options) -> list[tuple[str, Any]]:
    """Return the options of a channel; raise ValueError if `attempts` is out of bounds."""
    if not 1 <= attempts <= _MAX_ATTEMPTS:
        raise ValueError(f"attempts must be from 1 to {_MAX_ATTEMPTS}, not {attempts}")
    own = {
        "grpc.primary_user_agent": f"vireo-client/{__version__}",
        "grpc.service_config": json.dumps(_service_config(attempts)),
        # Detects a silently lost connection within 40 s, even without calls. The server allows
        # a ping every 10 s.
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # Reconnects within seconds; the default backoff grows to two minutes.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,  # also the timeout of an attempt to connect
        "grpc.max_reconnect_backoff_ms": 2_000,
    }
    return list({**own, **dict(further)}.items())


def _service_config(attempts: int) -> dict[str, Any]:
    if attempts == 1:
        return {}
    # None for calls that write: if the log is away, that is for seconds. And none while more than
    # about one in ten attempts fails: retries help if a pod is down, not if the service is.
    config: dict[str, Any] = copy.deepcopy(TABLE["serviceConfig"])
    for each in config["methodConfig"]:
        each["retryPolicy"]["maxAttempts"] = attempts
    return config
