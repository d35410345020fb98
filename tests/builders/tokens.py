"""Tokens that an edge is to refuse, each for one reason, and those that it is to take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vireo.server.security.certificates import load_key
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner, public_jwk


@dataclass(frozen=True)
class Tokens:
    """Makes tokens with the key of a folder."""

    folder: SecurityFolder

    def good(self, *scopes: str, subject: str = "someone", **changes: Any) -> str:
        """Return a valid token, by default for the scope `vireo.read`."""
        claims: dict[str, Any] = {"issuer": "vireo", "audience": "vireo", "seconds": 300, **changes}
        signer = TokenSigner(self.folder)
        return signer.token(subject=subject, scopes=scopes or ("vireo.read",), **claims)

    def without_a_subject(self) -> str:
        """Return a token that is valid, but has no `sub`."""
        claims = jwt.decode(self.good(), options={"verify_signature": False})
        del claims["sub"]
        key = load_key(self.folder.signing_key)
        return jwt.encode(claims, key, "ES256", {"kid": public_jwk(key)["kid"]})

    def refused(self) -> dict[str, str]:
        """Tokens that say nothing, by what is wrong with them."""
        key = load_key(self.folder.signing_key)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        kid = {"kid": public_jwk(key)["kid"]}
        claims = {
            "sub": "someone",
            "scope": "vireo.read vireo.admin",
            "iss": "vireo",
            "aud": "vireo",
            "exp": int(time.time()) + 300,
        }
        never_ends = {name: claim for name, claim in claims.items() if name != "exp"}
        header, payload, signature = self.good().split(".")
        _, other_payload, _ = self.good("vireo.read", "vireo.admin").split(".")
        return {
            "expired": self.good(seconds=-60),
            "never expires": jwt.encode(never_ends, key, "ES256", kid),
            "wrong audience": self.good(audience="others"),
            "wrong issuer": self.good(issuer="others"),
            "alg none": jwt.encode(claims, "", "none", kid),
            "shared secret": jwt.encode(claims, _as_secret(public), "HS256", kid),
            "another key": jwt.encode(
                claims, ec.generate_private_key(ec.SECP256R1()), "ES256", kid
            ),
            "tampered": ".".join((header, other_payload, signature)),
            "no signature": f"{header}.{payload}.",
            "no token at all": "rubbish",
        }


def _as_secret(public: bytes) -> bytes:
    """A public key's text as if it were a secret to share; the library refuses PEM as it is."""
    return b"".join(line for line in public.splitlines() if not line.startswith(b"-----"))
