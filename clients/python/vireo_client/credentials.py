"""Who a client trusts, and how it says who it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Tls:
    """TLS, and mutual TLS with a certificate of one's own. All in PEM.

    It is used as it was read: make another client once a certificate was renewed.
    """

    root_certificates: bytes | None = None
    """Authorities that may have signed the server's certificate; gRPC's own list if None."""
    certificate_chain: bytes | None = None
    """This client's certificate, and those between it and its authority."""
    private_key: bytes | None = field(default=None, repr=False)
    """The key of that certificate."""

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
        """Reads each from a file.

        Raises:
            OSError: one can't be read.
            ValueError: a certificate without its key, or the other way round.
        """
        paths = (root_certificates, certificate_chain, private_key)
        return cls(*(None if path is None else Path(path).read_bytes() for path in paths))

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them."""
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.private_key, self.certificate_chain
        )


class BearerToken:
    """Call credentials of a token that may change."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        """Takes the token, or what returns it as it is now."""
        self._now = token if callable(token) else lambda: token
        self._latest: tuple[str, grpc.CallCredentials] | None = None

    def call_credentials(self) -> grpc.CallCredentials:
        """As gRPC takes them, for one call. Raises what the callable raises."""
        token, latest = self._now(), self._latest
        if latest is None or latest[0] != token:
            latest = self._latest = (token, grpc.access_token_call_credentials(token))
        return latest[1]
