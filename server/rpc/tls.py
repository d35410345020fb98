"""Mutual TLS between our own processes, with files that may be renewed while they run."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter, Gauge

from vireo.server.errors import VireoError
from vireo.server.rpc.background_check import BackgroundCheck

log = structlog.get_logger()

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

_MAX_READS = 10
_MAX_LOOK_SECONDS = 0.1
"""Maximum seconds for which a handshake waits to see whether files have changed."""

Stamp: TypeAlias = tuple[tuple[int, int], ...]
"""Inodes and times of files."""
_Contents: TypeAlias = tuple[bytes, bytes, bytes]
"""Certificate, key and authority."""


def export_expiry(certificate: bytes, authority: bytes) -> None:
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

    def read(self) -> tuple[Stamp, _Contents]:
        """Return the files as they were at one moment.

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
                "`vireo certificates`, or set VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and VIREO_TLS_CA"
            ) from error
        raise VireoError(f"{self.certificate} and the files beside it keep changing")

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials of a server for the authority's clients; handshakes use the newest.

        Raises:
            VireoError: a file can't be read.
        """
        seen, contents = self.read()
        known = [seen]
        _export(contents)
        changed = BackgroundCheck(lambda: self.stamp() != known[0] and self.read(), 0.0)

        def newest() -> grpc.ServerCertificateConfiguration | None:
            """Return the files if they have changed, else None; called before each handshake."""
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
            _export(fresh)
            return _configuration(fresh)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(contents),
            newest,  # type: ignore[arg-type] # the stubs lack None
            require_client_authentication=True,
        )

    def server_context(self) -> ssl.SSLContext:
        """Return the same as `server_credentials`, for a server of HTTP.

        Raises:
            VireoError: a file can't be read, or isn't PEM.
        """
        seen, first = self._context()
        newest = [(seen, first)]
        changed = BackgroundCheck(lambda: self.stamp() != newest[0][0] and self._context(), 0.0)

        def choose(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
            """Use the files as they are; called in each handshake."""
            HANDSHAKES.inc()
            try:
                if found := changed.start().result(_MAX_LOOK_SECONDS):
                    newest[0] = found
                    log.info("certificate renewed", file=str(self.certificate))
            except (OSError, VireoError) as error:
                # The policy is that of gRPC's port.
                log.warning("the renewed certificate can't be read", reason=str(error) or "timeout")
            connection.context = newest[0][1]

        first.sni_callback = choose
        return first

    def _context(self) -> tuple[Stamp, ssl.SSLContext]:
        """Return a server's context of the files as they are now."""
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


def _export(contents: _Contents) -> None:
    certificate, _, authority = contents
    export_expiry(certificate, authority)


def _configuration(contents: _Contents) -> grpc.ServerCertificateConfiguration:
    certificate, key, authority = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def open_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.aio.Channel:
    """Return a channel to a process of ours; plaintext without TLS files.

    Args:
        target: host:port.
        tls: this process's own files.
        role: the role that the other process's certificate must name, for example "candidate".
        options: gRPC's channel options.

    Raises:
        VireoError: a TLS file can't be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return secure_channel(target, tls.channel_credentials(), role, options)


def secure_channel(
    target: str, credentials: grpc.ChannelCredentials, role: str, options: Options
) -> grpc.aio.Channel:
    """Return a channel as `open_channel` does, with credentials that were read before."""
    return grpc.aio.secure_channel(target, credentials, _expecting(role, options))


def open_blocking_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.Channel:
    """Return a channel as `open_channel` does, for threads."""
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.channel_credentials(), _expecting(role, options))


def _expecting(role: str, options: Options) -> list[tuple[str, Any]]:
    return [*options, ("grpc.ssl_target_name_override", tls_name(role))]
