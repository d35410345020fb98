"""Paths of certificates and of the key of tokens; doesn't import the code that creates them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vireo.server.rpc.tls import TlsFiles


@dataclass(frozen=True)
class SecurityFolder:
    """The security files of one home, created by `vireo certificates make`."""

    root: Path

    @property
    def certificates(self) -> Path:
        """Folder of the authority, one subfolder for each renewal, and `current`."""
        return self.root / "certificates"

    @property
    def current(self) -> Path:
        """Link to the certificates in use: `ca.crt`, and `<role>.crt` and `<role>.key` by role."""
        return self.certificates / "current"

    @property
    def authority(self) -> Path:
        """The CA certificate, which callers must trust."""
        return self.current / "ca.crt"

    @property
    def signing_key(self) -> Path:
        """The private key that signs tokens."""
        return self.root / "tokens" / "signing.key"

    @property
    def jwks(self) -> Path:
        """The public key, with which the edge verifies tokens."""
        return self.root / "tokens" / "jwks.json"

    @property
    def secrets(self) -> Path:
        """Folder of Envoy's secret files, which refer to its certificates."""
        return self.root / "envoy"

    def tls(self, role: str) -> TlsFiles:
        """Return the TLS files of a process with this role."""
        return TlsFiles(self.current / f"{role}.crt", self.current / f"{role}.key", self.authority)
