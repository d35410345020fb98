"""Where certificates and the key of tokens lie; needs nothing of what makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.rpc.tls import TlsFiles


@dataclass(frozen=True)
class SecurityFolder:
    """The files of one home, made by `vireo certificates`."""

    root: Path

    @property
    def certificates(self) -> Path:
        """Holds the authority, a folder for each time that some were made, and `current`."""
        return self.root / "certificates"

    @property
    def current(self) -> Path:
        """A link to the certificates in use: `ca.crt`, `<role>.crt` and `<role>.key` each."""
        return self.certificates / "current"

    @property
    def authority(self) -> Path:
        """The certificate that all others come from, which callers are to trust."""
        return self.current / "ca.crt"

    @property
    def signing_key(self) -> Path:
        """The private key that signs tokens."""
        return self.root / "tokens" / "signing.key"

    @property
    def jwks(self) -> Path:
        """Its public half, by which the edge checks them."""
        return self.root / "tokens" / "jwks.json"

    @property
    def secrets(self) -> Path:
        """What tells Envoy where its certificates are."""
        return self.root / "envoy"

    def tls(self, role: str) -> TlsFiles:
        """The files of a process with this role."""
        return TlsFiles(self.current / f"{role}.crt", self.current / f"{role}.key", self.authority)
