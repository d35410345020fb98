"""How commands find the edge that is meant, and come in."""

from __future__ import annotations

from pathlib import Path

import grpc
import jwt
import pytest

from vireo.ops.edge import Edge, edge_of
from vireo.server.errors import VireoError
from vireo.server.security.certificates import Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecurityFolder:
    """A home on which no stack runs, with certificates."""
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    monkeypatch.setenv("VIREO_EDGE_PORT", "1234")
    folder = SecurityFolder(tmp_path / "security")
    Certificates(folder).renew([])
    TokenSigner(folder).ensure()
    return folder


def test_a_plain_stack_is_asked_plainly() -> None:
    plain = edge_of()
    assert (plain.target, plain.ca, plain.token) == ("127.0.0.1:1234", None, "")
    assert plain.credentials() is None


def test_commands_use_the_homes_certificates_for_its_secured_stack(
    home: SecurityFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_SECURE", "true")
    monkeypatch.setenv("VIREO_JWT_AUDIENCE", "mine")
    secured = edge_of()
    assert secured.ca == home.authority
    claims = jwt.decode(secured.token, options={"verify_signature": False})
    assert (claims["aud"], claims["scope"]) == (
        "mine",
        "vireo.read vireo.batch vireo.explain vireo.events vireo.catalog vireo.admin",
    )
    assert isinstance(secured.credentials(), grpc.ChannelCredentials)


def test_explicit_options_take_precedence(
    home: SecurityFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_SECURE", "true")
    assert edge_of("elsewhere:1") == Edge("elsewhere:1")
    assert edge_of(token="theirs").token == "theirs"


def test_a_token_never_travels_in_plain_text() -> None:
    with pytest.raises(VireoError, match="plain text"):
        Edge("127.0.0.1:1", token="secret").channel()
    assert "secret" not in repr(Edge("127.0.0.1:1", token="secret"))


def test_an_authority_that_cant_be_read_is_named() -> None:
    with pytest.raises(VireoError, match=r"nowhere\.pem"):
        Edge("127.0.0.1:1", Path("/nowhere.pem")).channel()
