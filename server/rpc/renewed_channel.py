"""A long-lived channel to a process of ours, reopened once the certificate is renewed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import grpc.aio
import structlog

from server.errors import VireoError
from server.rpc.tls import Options, TlsFiles, open_channel

log = structlog.get_logger()

_CHECK_SECONDS = 1.0
"""Interval of checks for a renewed certificate."""


class RenewedChannel:
    """Serves stubs as their channel; gRPC's own channels keep the certificate they began with.

    The channel before the last renewal is kept, so that calls on it can end. Use it from one
    event loop.
    """

    def __init__(self, target: str, tls: TlsFiles, role: str, options: Options = ()) -> None:
        """Open the channel; arguments and errors are those of `open_channel`."""
        self._target, self._tls, self._role, self._options = target, tls, role, options
        self._stamp = tls.stamp()
        self._channel = open_channel(target, tls, role, options)
        self._before: grpc.aio.Channel | None = None
        self._checked = time.monotonic()

    def unary_unary(self, method: str, *arguments: Any, **further: Any) -> Callable[..., Any]:
        """Return a method that uses whichever channel is current when it is called."""
        channel: grpc.aio.Channel | None = None
        send: Callable[..., Any]

        def call(request: Any, **options: Any) -> Any:
            nonlocal channel, send
            self._renew_if_changed()
            if channel is not self._channel:
                channel = self._channel
                send = channel.unary_unary(method, *arguments, **further)
            return send(request, **options)

        return call

    async def close(self) -> None:
        """Close the channel, with the calls in flight."""
        for channel in (self._before, self._channel):
            if channel is not None:
                await channel.close()

    def _renew_if_changed(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            stamp = self._tls.stamp()
            if stamp == self._stamp:
                return
            fresh = open_channel(self._target, self._tls, self._role, self._options)
        except (OSError, VireoError) as error:
            # Declared policy: the open channel stays until the files are valid again.
            log.warning("the renewed certificate can't be read", reason=str(error))
            return
        self._before, self._channel, self._stamp = self._channel, fresh, stamp
        log.info("channel reopened", target=self._target)


def lasting_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.aio.Channel:
    """Return a channel for unary calls that lasts as long as the process; see `open_channel`."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    # Stubs of services that have only unary methods use nothing else of a channel.
    return cast("grpc.aio.Channel", RenewedChannel(target, tls, role, options))
