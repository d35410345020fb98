"""Tokens for local use: the signing key, its public key for the edge, and the tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from vireo.server.errors import VireoError
from vireo.server.security.certificates import Key, key_pem, load_key, write_private
from vireo.server.security.folder import SecurityFolder

ALGORITHM = "ES256"


class TokenSigner:
    """Signs tokens with the key of a folder, and publishes the public key beside it."""

    def __init__(self, folder: SecurityFolder) -> None:
        """Hold the folder; nothing is read or created yet."""
        self._key = folder.signing_key
        self._jwks = folder.jwks

    def ensure(self) -> None:
        """Create the key if there never was one, and publish its public key.

        Raises:
            VireoError: the key is missing but its public key exists. Tokens that it signed may be
                in use, and with a new key the edge would refuse them all.
        """
        if not self._key.exists():
            if self._jwks.exists():
                raise VireoError(
                    f"{self._key} is missing, and tokens that it signed may be in use; put it "
                    f"back, or, to begin with another key and refuse those, remove {self._jwks}"
                )
            self._key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._key, key_pem(ec.generate_private_key(ec.SECP256R1())))
        fresh = self._jwks.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": [public_jwk(self._load())]}, indent=2) + "\n")
        fresh.replace(self._jwks)

    def token(
        self,
        *,
        subject: str,
        scopes: Sequence[str],
        issuer: str,
        audience: str,
        seconds: float,
        more: Mapping[str, object] | None = None,
    ) -> str:
        """Return a signed token.

        Args:
            subject: the caller (`sub`), by which the edge applies rate limits.
            scopes: what the caller may do, for example "vireo.read".
            issuer: the `iss` that the edge expects.
            audience: the `aud` that the edge expects.
            seconds: lifetime of the token.
            more: further claims, for example the viewer.

        Raises:
            VireoError: there is no key.
        """
        now = int(time.time())
        claims = {
            "sub": subject,
            "scope": " ".join(scopes),
            "iss": issuer,
            "aud": audience,
            "iat": now,
            "exp": now + int(seconds),
            **(more or {}),
        }
        key = self._load()
        return jwt.encode(claims, key, ALGORITHM, headers={"kid": public_jwk(key)["kid"]})

    def _load(self) -> Key:
        try:
            return load_key(self._key)
        except FileNotFoundError as error:
            raise VireoError(
                f"the signing key {self._key} is missing; create it with: vireo certificates make"
            ) from error


def public_jwk(key: Key) -> dict[str, Any]:
    """Return a key's public key as a JSON Web Key, with its thumbprint as id (RFC 7638)."""
    jwk: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())
    kid = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    return {**members, "kid": kid, "alg": ALGORITHM, "use": "sig"}
