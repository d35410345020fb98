"""What both clients share: how they are made, and what they ask."""

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
"""A slate, or what can be awaited for one."""


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
        """Prepares a connection; it is made when it is first needed, and made anew when lost.

        Args:
            target: `host:port`, or another name that gRPC resolves, `dns:///host:port` say.
            tls: whom to trust, and this client's own certificate; None for plain text.
            token: bearer token to send along, or what returns the current one: it is called
                for every call, from any thread, and must not block. Needs `tls`.
            timeout: seconds that a call may take, retries included.
            attempts: how often a request may be sent while it gets UNAVAILABLE, 1 to 5. Unless
                it is 1, a request that an overloaded server turned away is repeated, too, once,
                when the server said to, if the timeout allows for that.
            options: further gRPC channel arguments; they count more than this client's own.

        Raises:
            ValueError: attempts is out of bounds, or there is a token and no TLS.
        """
        if token is not None and tls is None:
            raise ValueError("a token must not travel in plain text: give tls, too")
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
        """Asks what a viewer should watch next; gives the slate, best first.

        A viewer that nobody knows gets a slate too.

        Args:
            viewer_id: your own id of the viewer, 1 to 128 bytes of UTF-8.
            page_size: how many videos, 1 to 500; 10 if None.
            surface: where the slate will be shown.
            seed_video_id: the video that is playing; required for `Surface.UP_NEXT`.
            excluded_video_ids: videos not to return, at most 1,000.
            device: not used by the server yet. Kind of device in your own words, at most 64 bytes.
            locale: not used yet. BCP 47 language tag, at most 35 bytes, for example "de-CH".
            time: when the slate will be shown, with its time zone; now if None.
            explain: whether to tell titles, timings and sources too. Costs a little.
            timeout: seconds that this call may take; the client's if None.
            request_id: the id that the server's logs will have, printable ASCII of at most 128
                characters; made if empty.
            metadata: further headers in lower case, `traceparent` for example.

        Raises:
            InvalidRequest: the request can't be right; its `violations` say why.
            NotFound: nobody knows the seed video.
            Overloaded: the server takes no more for now.
            Unavailable: nothing serves there.
            DeadlineExceeded: the timeout has passed.
            AccessDenied: token or certificate don't do.
            VireoError: anything else that the server or gRPC answers.
            ValueError: what can't be sent at all: a time without zone, a bad request id, or
                anything once the client is closed.
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
        """Makes the channel; plain text without credentials."""
        raise NotImplementedError

    def _send(self, ask: Ask) -> Answer:
        """Makes one call."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _call_credentials(self) -> grpc.CallCredentials | None:
        """The token for one call, if there is one."""
        return self._token.call_credentials() if self._token else None
