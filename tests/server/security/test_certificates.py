"""Certificates that are made for the processes of a stack."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from server.security import certificates as module
from server.security.certificates import LOOPBACK, ROLES, Certificates
from server.security.folder import SecurityFolder


@pytest.fixture
def folder(tmp_path: Path) -> SecurityFolder:
    return SecurityFolder(tmp_path / "security")


@pytest.fixture
def certificates(folder: SecurityFolder) -> Certificates:
    return Certificates(folder)


def read(folder: SecurityFolder, role: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(folder.tls(role).certificate.read_bytes())


def names(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in found}


def test_each_role_has_a_certificate_of_the_authority_for_what_it_does(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    certificates.renew([])
    authority = x509.load_pem_x509_certificate(folder.authority.read_bytes())
    for role, usages in ROLES.items():
        certificate = read(folder, role)
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usage) == set(usages)
    assert ExtendedKeyUsageOID.CLIENT_AUTH not in ROLES["edge"]


def test_only_the_edge_has_addresses_so_that_no_other_passes_for_it(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    certificates.renew(["vireo.example", "10.0.0.1"])
    assert names(read(folder, "edge")) == {
        "edge.vireo",
        "localhost",
        "127.0.0.1",
        "::1",
        "vireo.example",
        "10.0.0.1",
    }
    assert {*LOOPBACK} <= names(read(folder, "edge"))
    for role in ROLES.keys() - {"edge"}:
        assert names(read(folder, role)) == {f"{role}.vireo"}


def test_keys_are_for_the_owner_alone_whatever_the_umask(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    before = os.umask(0)
    try:
        certificates.renew([])
    finally:
        os.umask(before)
    keys = list(folder.root.rglob("*.key"))
    assert len(keys) == len(ROLES) + 1
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert folder.certificates.stat().st_mode & 0o777 == 0o700


def test_renewing_keeps_the_authority_and_hosts_and_changes_all_else_at_once(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    certificates.renew(["vireo.example"])
    authority, before = folder.authority.read_bytes(), folder.current.resolve()
    serials = {role: read(folder, role).serial_number for role in ROLES}
    certificates.renew([])
    assert folder.authority.read_bytes() == authority
    assert folder.current.resolve() != before
    assert before.exists(), "a process may be about to read it"
    assert all(read(folder, role).serial_number != serials[role] for role in ROLES)
    assert "vireo.example" in names(read(folder, "edge"))
    certificates.renew([])
    assert not before.exists()


def test_they_are_made_anew_only_when_missing_soon_over_or_short_of_a_host(
    folder: SecurityFolder, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert certificates.ensure([])
    assert not certificates.ensure(["127.0.0.1"])
    assert certificates.ensure(["vireo.example"])
    assert not certificates.ensure([])
    ends = read(folder, "edge").not_valid_after_utc
    assert ends > datetime.now(UTC) + timedelta(days=module.DAYS - 1)
    monkeypatch.setattr(module, "_RENEW_BEFORE", timedelta(days=module.DAYS + 1))
    assert certificates.ensure([])
