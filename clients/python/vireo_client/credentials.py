"""Credentials of a client: TLS and bearer tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc


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


class BearerToken:
    """Call credentials of a token that may change."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        """Hold a token, or a function that returns the current one."""
        self._now = token if callable(token) else lambda: token
        self._latest: tuple[str, grpc.CallCredentials] | None = None

    def call_credentials(self) -> grpc.CallCredentials:
        """Return gRPC's credentials for one call; raise what the function raises."""
        token, latest = self._now(), self._latest
        if latest is None or latest[0] != token:
            latest = self._latest = (token, grpc.access_token_call_credentials(token))
        return latest[1]
