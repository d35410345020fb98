"""Mutual TLS between our own processes, with files that may be renewed while they run."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter, Gauge

from vireo.server.errors import VireoError

log = structlog.get_logger()

T = TypeVar("T")

EXPIRY = Gauge(
    "vireo_certificate_expiry_timestamp_seconds",
    "End of validity of the certificate that handshakes use, and of its authority; the earliest if "
    "a file has several.",
    ["file"],
)

HANDSHAKES = Counter(
    "vireo_tls_handshakes",
    "TLS connections opened at this process's port, including refused ones: "
    "gRPC doesn't distinguish them.",
)

Options = Sequence[tuple[str, Any]]

_CHECK_SECONDS = 1.0
"""Interval of a channel's checks for a renewed certificate."""
_MAX_READS = 10
_MAX_LOOK_SECONDS = 0.1
"""Maximum seconds for which a handshake waits to see whether files have changed."""

Stamp: TypeAlias = tuple[tuple[int, int], ...]
"""Inodes and times of files."""


def _export_expiry(certificate: bytes, authority: bytes) -> None:
    """Export until when the certificates of two PEM files are valid.

    Without the `security` extra, which reads certificates, nothing is exported. Neither is a file
    that holds none: gRPC, which gets it too, reports it.
    """
    try:
        from cryptography.x509 import load_pem_x509_certificates
    except ModuleNotFoundError:
        return
    for file, content in (("certificate", certificate), ("authority", authority)):
        try:
            held = load_pem_x509_certificates(content)
        except ValueError:
            continue
        EXPIRY.labels(file).set(min(each.not_valid_after_utc.timestamp() for each in held))


def tls_name(role: str) -> str:
    """Return the name in the certificate of a kind of process, for example "candidate".

    Pods' addresses change; a certificate names what a process is instead.
    """
    return f"{role}.vireo"


@dataclass(frozen=True)
class TlsFiles:
    """A process's certificate and key, and the authority of all processes' certificates, as PEM."""

    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> Stamp:
        """Return inodes and times of the files; raise OSError if one is missing."""
        states = [path.stat() for path in (self.certificate, self.key, self.authority)]
        return tuple((state.st_ino, state.st_mtime_ns) for state in states)

    def read(self) -> tuple[Stamp, tuple[bytes, bytes, bytes]]:
        """Return certificate, key and authority as they were at one moment.

        Raises:
            VireoError: one can't be read.
        """
        try:
            for _ in range(_MAX_READS):
                before = self.stamp()
                contents = (
                    self.certificate.read_bytes(),
                    self.key.read_bytes(),
                    self.authority.read_bytes(),
                )
                if self.stamp() == before:
                    return before, contents
        except OSError as error:
            raise VireoError(
                f"the TLS file {error.filename} can't be read ({error.strerror}); make it with "
                "`vireo certificates make`, or set VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and "
                "VIREO_TLS_CA"
            ) from error
        raise VireoError(f"{self.certificate} and the files beside it keep changing")

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials of a server for the authority's clients; handshakes use the newest.

        Raises:
            VireoError: a file can't be read.
        """
        first, renewed = self._renewable(self._configuration)
        return grpc.dynamic_ssl_server_credentials(
            first,
            renewed,  # type: ignore[arg-type] # the stubs lack None
            require_client_authentication=True,
        )

    def server_context(self) -> ssl.SSLContext:
        """Return the same as `server_credentials`, for a server of HTTP.

        Raises:
            VireoError: a file can't be read, or isn't PEM.
        """
        first, renewed = self._renewable(self._context)
        newest = [first]

        def choose(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
            newest[0] = renewed() or newest[0]
            connection.context = newest[0]

        first.sni_callback = choose  # called in each handshake
        return first

    def _renewable(self, load: Callable[[], tuple[Stamp, T]]) -> tuple[T, Callable[[], T | None]]:
        """Return what the files hold, and a function that returns it again if it has changed.

        Args:
            load: reads the files. The function calls it in each handshake, if need be.
        """
        stamp, first = load()
        known = [stamp]
        changed = BackgroundCheck(lambda: self.stamp() != known[0] and load(), 0.0)

        def renewed() -> T | None:
            HANDSHAKES.inc()
            try:
                found = changed.start().result(_MAX_LOOK_SECONDS)
            except (OSError, VireoError) as error:
                # Declared policy: the current certificate stays until there is a valid new one.
                log.warning("the renewed certificate can't be read", reason=str(error) or "timeout")
                return None
            if not found:
                return None
            known[0], fresh = found
            log.info("certificate renewed", file=str(self.certificate))
            return fresh

        return first, renewed

    def _configuration(self) -> tuple[Stamp, grpc.ServerCertificateConfiguration]:
        """Return a gRPC server's certificate of the files as they are now."""
        stamp, (certificate, key, authority) = self.read()
        _export_expiry(certificate, authority)
        pair = key, certificate
        return stamp, grpc.ssl_server_certificate_configuration([pair], authority)

    def _context(self) -> tuple[Stamp, ssl.SSLContext]:
        """Return an HTTP server's context of the files as they are now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        stamp, (_, _, authority) = self.read()
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(cadata=authority.decode())
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise VireoError(f"the TLS file {self.certificate} can't be used: {error}") from error
        return stamp, context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials of a client, from the files as they are now.

        Raises:
            VireoError: a file can't be read.
        """
        _, (certificate, key, authority) = self.read()
        return grpc.ssl_channel_credentials(authority, key, certificate)


# Without a pool of its own, a new channel to an address inherits the old one's backoff.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


def open_channel(target: str, tls: TlsFiles | None, role: str) -> grpc.aio.Channel:
    """Return a channel with a new connection to a process of ours; plaintext without TLS files.

    Args:
        target: host:port.
        tls: this process's own files.
        role: the role that the other process's certificate must name, for example "candidate".

    Raises:
        VireoError: a TLS file can't be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(target, _OPTIONS)
    return grpc.aio.secure_channel(target, tls.channel_credentials(), _expecting(role, _OPTIONS))


def open_blocking_channel(target: str, tls: TlsFiles | None, role: str) -> grpc.Channel:
    """Return a channel as `open_channel` does, for threads."""
    if tls is None:
        return grpc.insecure_channel(target, _OPTIONS)
    return grpc.secure_channel(target, tls.channel_credentials(), _expecting(role, _OPTIONS))


def _expecting(role: str, options: Options) -> list[tuple[str, Any]]:
    return [*options, ("grpc.ssl_target_name_override", tls_name(role))]


class BackgroundCheck(Generic[T]):
    """A check that runs in a thread of its own, once at a time, when it is due or asked for.

    However long it hangs, it holds up no event loop and no second thread.
    """

    def __init__(self, check: Callable[[], T], seconds: float) -> None:
        """Run `check` at most once in `seconds`, for the first time after them."""
        self._check, self._seconds = check, seconds
        self._due = time.monotonic() + seconds
        self._thread = ThreadPoolExecutor(1, "files")
        self._running: Future[T] | None = None

    def start_if_due(self) -> None:
        """Start the check if it is due; call it whenever what it looks at is used."""
        if time.monotonic() >= self._due:
            self.start()

    def start(self) -> Future[T]:
        """Return the check that is under way, started now unless there is one."""
        if self._running is None or self._running.done():
            self._due = time.monotonic() + self._seconds
            self._running = self._thread.submit(self._check)
        return self._running


class RenewedChannel:
    """Serves stubs as their channel; gRPC's own channels keep the certificate they began with.

    The channel before the last renewal is kept, so that calls on it can end. Use it from one
    event loop.
    """

    def __init__(self, target: str, tls: TlsFiles, role: str, options: Options = ()) -> None:
        """Open the channel; further arguments and errors are those of `open_channel`.

        `options` are gRPC's channel options.
        """
        self._target, self._tls, self._options = target, tls, _expecting(role, options)
        self._stamp = tls.stamp()
        self._channel = grpc.aio.secure_channel(target, tls.channel_credentials(), self._options)
        self._before: grpc.aio.Channel | None = None
        self._fresh: tuple[Stamp, grpc.ChannelCredentials] | None = None
        """Stamp and credentials of the renewed certificate, until the channel is reopened."""
        self._renewed = BackgroundCheck(self._read_if_renewed, _CHECK_SECONDS)

    def unary_unary(self, method: str, *arguments: Any, **further: Any) -> Callable[..., Any]:
        """Return a method that uses whichever channel is current when it is called."""

        def call(request: Any, **options: Any) -> Any:
            self._renew_if_changed()
            send = self._channel.unary_unary(method, *arguments, **further)
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
        self._channel = grpc.aio.secure_channel(self._target, credentials, self._options)
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
