"""Mutual TLS between our own processes, with files that may be renewed while they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter

from server.errors import VireoError

log = structlog.get_logger()

HANDSHAKES = Counter(
    "vireo_tls_handshakes",
    "Connections that began at this process's port where it speaks TLS, refused ones among them: "
    "gRPC doesn't tell which.",
)

Options = Sequence[tuple[str, Any]]

_READS = 10


def tls_name(role: str) -> str:
    """The name in the certificate of a kind of process, "candidate" say, wherever it runs.

    Addresses of pods come and go; a certificate tells what a process is instead.
    """
    return f"{role}.vireo"


class _Contents(NamedTuple):
    certificate: bytes
    key: bytes
    authority: bytes


_Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TlsFiles:
    """A process's certificate and key, and the authority that all others' come from, as PEM."""

    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> _Stamp:
        """Tells one state of the files from another; raises OSError where one is missing."""
        states = [path.stat() for path in (self.certificate, self.key, self.authority)]
        return tuple((state.st_ino, state.st_mtime_ns) for state in states)

    def read(self) -> tuple[_Stamp, _Contents]:
        """The files as they were together at one moment.

        Raises:
            VireoError: one can't be read.
        """
        try:
            for _ in range(_READS):
                before = self.stamp()
                contents = _Contents(
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
        raise VireoError(f"{self.certificate} and the files beside it change all the time")

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that takes only clients of the authority; each handshake has the newest.

        Raises:
            VireoError: a file can't be read.
        """
        seen, contents = self.read()
        known = [seen]

        def newest() -> grpc.ServerCertificateConfiguration | None:
            """Called before each handshake; None where nothing is new."""
            HANDSHAKES.inc()
            try:
                if self.stamp() == known[0]:
                    return None
                known[0], fresh = self.read()
            except (OSError, VireoError) as error:
                # Declared policy: the certificate that it has goes on until there is another.
                log.warning("the certificate can't be read anew", reason=str(error))
                return None
            log.info("certificate renewed", file=str(self.certificate))
            return _configuration(fresh)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(contents),
            newest,  # type: ignore[arg-type] # the stubs leave out that it may be None
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client, as the files are now; raises VireoError where one can't be read."""
        _, contents = self.read()
        return grpc.ssl_channel_credentials(contents.authority, contents.key, contents.certificate)


def _configuration(contents: _Contents) -> grpc.ServerCertificateConfiguration:
    pair = (contents.key, contents.certificate)
    return grpc.ssl_server_certificate_configuration([pair], contents.authority)


def open_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.aio.Channel:
    """A channel to a process of ours; plain where there are no TLS files.

    Args:
        target: host:port.
        tls: this process's own files.
        role: what the other process is, "candidate" say: its certificate must name it.
        options: of gRPC.

    Raises:
        VireoError: a TLS file can't be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.channel_credentials(), _expecting(role, options))


def open_blocking_channel(
    target: str, tls: TlsFiles | None, role: str, options: Options = ()
) -> grpc.Channel:
    """The same for threads."""
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.channel_credentials(), _expecting(role, options))


def _expecting(role: str, options: Options) -> list[tuple[str, Any]]:
    return [*options, ("grpc.ssl_target_name_override", tls_name(role))]
