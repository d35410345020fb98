"""The base of both clients: construction and the method `recommend`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

import grpc

from vireo_client._generated.enums import Surface
from vireo_client.channel import Options, channel_options
from vireo_client.credentials import BearerToken, Tls
from vireo_client.request import Ask, Metadata, identity

Answer = TypeVar("Answer")
"""A slate, or an awaitable of one."""


class BaseClient(Generic[Answer]):
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
            timeout: timeout of a call in seconds, including retries.
            attempts: maximum attempts of a call that gets UNAVAILABLE, 1 to 5. Unless it is 1, a
                call that an overloaded server shed is retried once, after the server's delay, if
                the timeout allows it.
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

    def recommend(
        self,
        viewer_id: str,
        *,
        page_size: int | None = None,
        surface: Surface = Surface.HOME,
        seed_video_id: str = "",
        excluded_video_ids: Iterable[str] = (),
        device: str = "",
        locale: str = "",
        time: datetime | None = None,
        explain: bool = False,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Answer:
        """Return the slate for a viewer, best first.

        Unknown viewers get a slate too.

        Args:
            viewer_id: your own id of the viewer, 1 to 128 bytes of UTF-8.
            page_size: maximum number of videos, 1 to 500; 10 if None.
            surface: where the slate will be shown.
            seed_video_id: the video that is playing; required for `Surface.UP_NEXT`.
            excluded_video_ids: videos not to return, at most 1,000.
            device: not used yet. Kind of device, free text of at most 64 bytes.
            locale: not used yet. BCP 47 language tag, at most 35 bytes, for example "de-CH".
            time: when the slate will be shown, with its time zone; now if None.
            explain: whether to return titles, timings and sources; slightly slower.
            timeout: timeout of this call in seconds; the client's if None.
            request_id: id for the server's logs, printable ASCII of at most 128 characters;
                generated if empty.
            metadata: further headers in lower case, for example `traceparent`.

        Raises:
            InvalidRequest: the request is invalid; `violations` has the fields.
            NotFound: the seed video is unknown.
            Overloaded: the server is overloaded.
            Unavailable: the server is unreachable or not serving.
            DeadlineExceeded: the timeout has passed.
            AccessDenied: the token or certificate was rejected.
            VireoError: the call failed with another code.
            ValueError: the request can't be sent: a time without a zone, an invalid request id,
                or the client is closed.
        """
        return self._send(
            Ask(
                viewer_id=viewer_id,
                page_size=page_size,
                surface=surface,
                seed_video_id=seed_video_id,
                excluded_video_ids=excluded_video_ids,
                device=device,
                locale=locale,
                time=time,
                explain=explain,
                timeout=self._timeout if timeout is None else timeout,
                request_id=identity(request_id),
                metadata=metadata,
            )
        )

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        """Open the channel; plaintext without credentials."""
        raise NotImplementedError

    def _send(self, ask: Ask) -> Answer:
        """Make one call."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _call_credentials(self) -> grpc.CallCredentials | None:
        """Return the credentials for one call; None without a token."""
        return self._token.call_credentials() if self._token else None
