"""Tokens for local use, and the key that they are signed with."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from server.errors import VireoError
from server.security.tokens import TokenSigner


def token(signer: TokenSigner, seconds: float = 60) -> str:
    return signer.token(
        subject="someone",
        scopes=["vireo.read", "vireo.admin"],
        issuer="here",
        audience="there",
        seconds=seconds,
    )


def test_a_token_is_good_by_the_published_key_and_says_what_was_asked(tmp_path: Path) -> None:
    signer = TokenSigner(tmp_path / "tokens")
    signer.ensure()
    [key] = jwt.PyJWKSet.from_json(signer.jwks.read_text()).keys
    made = token(signer)
    assert jwt.get_unverified_header(made)["kid"] == key.key_id
    claims = jwt.decode(made, key, ["ES256"], audience="there", issuer="here")
    assert (claims["sub"], claims["scope"]) == ("someone", "vireo.read vireo.admin")
    assert claims["exp"] - claims["iat"] == 60


def test_the_key_stays_and_is_for_the_owner_alone(tmp_path: Path) -> None:
    signer = TokenSigner(tmp_path / "tokens")
    signer.ensure()
    published = signer.jwks.read_text()
    signer.ensure()
    assert signer.jwks.read_text() == published
    assert (tmp_path / "tokens" / "signing.key").stat().st_mode & 0o777 == 0o600


def test_what_is_published_holds_nothing_secret(tmp_path: Path) -> None:
    signer = TokenSigner(tmp_path / "tokens")
    signer.ensure()
    [key] = json.loads(signer.jwks.read_text())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_without_a_key_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match="vireo certificates"):
        token(TokenSigner(tmp_path))
