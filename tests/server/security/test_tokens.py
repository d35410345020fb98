"""Tokens for local use, and the key that they are signed with."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from vireo.server.errors import VireoError
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner


@pytest.fixture
def folder(tmp_path: Path) -> SecurityFolder:
    return SecurityFolder(tmp_path)


@pytest.fixture
def signer(folder: SecurityFolder) -> TokenSigner:
    signer = TokenSigner(folder)
    signer.ensure()
    return signer


def token(signer: TokenSigner, seconds: float = 60) -> str:
    return signer.token(
        subject="someone",
        scopes=["vireo.read", "vireo.admin"],
        issuer="here",
        audience="there",
        seconds=seconds,
    )


def test_a_token_verifies_with_the_published_key_and_has_its_claims(
    signer: TokenSigner, folder: SecurityFolder
) -> None:
    [key] = jwt.PyJWKSet.from_json(folder.jwks.read_text()).keys
    made = token(signer)
    assert jwt.get_unverified_header(made)["kid"] == key.key_id
    claims = jwt.decode(made, key, ["ES256"], audience="there", issuer="here")
    assert (claims["sub"], claims["scope"]) == ("someone", "vireo.read vireo.admin")
    assert claims["exp"] - claims["iat"] == 60


def test_the_key_stays_and_is_for_the_owner_alone(
    signer: TokenSigner, folder: SecurityFolder
) -> None:
    published = folder.jwks.read_text()
    signer.ensure()
    assert folder.jwks.read_text() == published
    assert folder.signing_key.stat().st_mode & 0o777 == 0o600


def test_published_keys_hold_nothing_secret(signer: TokenSigner, folder: SecurityFolder) -> None:
    [key] = json.loads(folder.jwks.read_text())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_without_a_key_the_command_that_makes_it_is_named(folder: SecurityFolder) -> None:
    with pytest.raises(VireoError, match="vireo certificates make"):
        token(TokenSigner(folder))


def test_a_missing_signing_key_is_reported_and_not_replaced(
    signer: TokenSigner, folder: SecurityFolder
) -> None:
    published = folder.jwks.read_text()
    folder.signing_key.unlink()
    with pytest.raises(VireoError, match=r"signing.key is missing.*put it back.*jwks.json"):
        signer.ensure()
    assert folder.jwks.read_text() == published
    assert not folder.signing_key.exists()
    folder.jwks.unlink()
    signer.ensure()
    assert folder.jwks.read_text() != published


def test_an_unreadable_key_is_reported_by_name(signer: TokenSigner, folder: SecurityFolder) -> None:
    folder.signing_key.write_bytes(b"-----BEGIN PRIVATE KEY-----")
    with pytest.raises(VireoError, match=r"signing.key can't be read"):
        token(signer)
