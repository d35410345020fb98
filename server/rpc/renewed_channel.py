"""A long-lived channel to a process of ours, reopened once the certificate is renewed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc.aio
import structlog

from vireo.server.errors import VireoError
from vireo.server.rpc.background_check import BackgroundCheck
from vireo.server.rpc.tls import Options, Stamp, TlsFiles, open_channel, secure_channel

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
        self._fresh: tuple[Stamp, grpc.ChannelCredentials] | None = None
        """Stamp and credentials of the renewed certificate, until the channel is reopened."""
        self._renewed = BackgroundCheck(self._read_if_renewed, _CHECK_SECONDS)

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
        self._renewed.start_if_due()
        if self._fresh is None:
            return
        self._stamp, credentials = self._fresh
        self._fresh = None
        self._before = self._channel
        self._channel = secure_channel(self._target, credentials, self._role, self._options)
        log.info("channel reopened", target=self._target)

    def _read_if_renewed(self) -> None:
        try:
            stamp = self._tls.stamp()
            if stamp != self._stamp:
                self._fresh = stamp, self._tls.channel_credentials()
        except (OSError, VireoError) as error:
            # Declared policy: the open channel stays until the files are valid again.
            log.warning("the renewed certificate can't be read", reason=str(error))


def lasting_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.aio.Channel:
    """Return a channel for unary calls that lasts as long as the process; see `open_channel`."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    # Stubs of services that have only unary methods use nothing else of a channel.
    return cast("grpc.aio.Channel", RenewedChannel(target, tls, role, options))
