"""Certificates that are made for the processes of a stack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs

from vireo.server.errors import VireoError
from vireo.server.security import certificates as module
from vireo.server.security.certificates import LOOPBACK, ROLES, Certificates
from vireo.server.security.folder import SecurityFolder

SERVER = ExtendedKeyUsageOID.SERVER_AUTH


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
    for role in ROLES.keys() - {"edge", "slate"}:
        assert names(read(folder, role)) == {f"{role}.vireo"}
    services = ("slate", "gateway", "candidate", "ranking")
    assert names(read(folder, "slate")) == {f"{role}.vireo" for role in services}


def test_keys_are_readable_by_the_owner_only_for_any_umask(
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
    assert all(each.stat().st_mode & 0o044 for each in folder.root.rglob("*.crt"))
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


def test_another_authority_is_trusted_first_then_signs_and_then_is_the_only_one(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    certificates.renew(["vireo.example"])
    [old] = trusted(folder)
    serials = {role: read(folder, role).serial_number for role in ROLES}
    lose_the_key(folder)  # which mustn't matter
    certificates.replace_authority()
    new, kept = trusted(folder)
    assert kept == old
    assert new.public_key() != old.public_key()
    assert {role: read(folder, role).serial_number for role in ROLES} == serials

    certificates.renew([])
    assert trusted(folder) == [new, old]
    for role in ROLES:
        read(folder, role).verify_directly_issued_by(new)
    assert "vireo.example" in names(read(folder, "edge"))

    certificates.renew([])
    assert trusted(folder) == [new]
    assert {path.stat().st_mode & 0o777 for path in folder.root.rglob("*.key")} == {0o600}
    assert {path.name for path in folder.certificates.glob("authority.*")} == {
        "authority.crt",
        "authority.key",
    }


def trusted(folder: SecurityFolder) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(folder.authority.read_bytes())


def test_an_authority_of_ones_own_without_an_identifier_is_replaced_like_any(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    folder.certificates.mkdir(parents=True)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=99))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder.certificates / "authority.crt").write_bytes(module.certificate_pem(own))
    (folder.certificates / "authority.key").write_bytes(module.key_pem(key))
    for _ in range(2):
        certificates.renew([])
        assert trusted(folder) == [own]
    certificates.replace_authority()
    assert trusted(folder)[1:] == [own]


def test_a_replacement_of_the_authority_that_broke_off_can_be_repeated(
    folder: SecurityFolder, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.renew([])
    [old] = trusted(folder)

    def break_off(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(Certificates, "_publish", break_off)
        with pytest.raises(OSError):
            certificates.replace_authority()
    assert trusted(folder) == [old]
    with pytest.raises(VireoError, match="certificates replace-authority"):
        certificates.renew([])
    certificates.replace_authority()
    certificates.renew([])
    assert trusted(folder)[1:] == [old]


def test_certificates_are_renewed_only_if_missing_expiring_or_without_a_host(
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


def files(folder: SecurityFolder) -> dict[Path, bytes]:
    """What each process and caller reads, and who signs."""
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def lose_the_key(folder: SecurityFolder) -> None:
    (folder.certificates / "authority.key").unlink()


def lose_the_certificate(folder: SecurityFolder) -> None:
    (folder.certificates / "authority.crt").unlink()


def lose_both(folder: SecurityFolder) -> None:
    lose_the_key(folder)
    lose_the_certificate(folder)


def take_anothers_key(folder: SecurityFolder) -> None:
    other = SecurityFolder(folder.root.with_name("other"))
    Certificates(other).renew([])
    shutil.copy(other.certificates / "authority.key", folder.certificates)


def take_anothers_authority(folder: SecurityFolder) -> None:
    take_anothers_key(folder)
    other = SecurityFolder(folder.root.with_name("other"))
    shutil.copy(other.certificates / "authority.crt", folder.certificates)


def damage_the_key(folder: SecurityFolder) -> None:
    (folder.certificates / "authority.key").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_the_key, "authority.key is missing.* put it back"),
        (lose_the_certificate, "authority.crt is missing.*ca.crt is a copy"),
        (lose_both, "authority.key is missing"),
        (take_anothers_key, "authority.key is not the key of .*authority.crt"),
        (take_anothers_authority, "authority.crt is not the authority of the certificates in use"),
        (damage_the_key, "authority.key can't be read"),
    ],
)
def test_a_renewal_never_changes_the_authority_of_certificates_in_use(
    folder: SecurityFolder,
    certificates: Certificates,
    damage: Callable[[SecurityFolder], None],
    message: str,
) -> None:
    certificates.renew([])
    damage(folder)
    before = files(folder)
    with pytest.raises(VireoError, match=message):
        certificates.renew([])
    assert files(folder) == before
    assert not certificates.ensure([]), "those that there are go on"


@pytest.mark.parametrize("step", ["key_pem", "certificate_pem"])
def test_a_first_start_that_broke_off_while_it_made_the_authority_can_be_repeated(
    folder: SecurityFolder,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    def end(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, end)
        with pytest.raises(KeyboardInterrupt):
            certificates.renew([])
    assert certificates.ensure([])
    read(folder, "edge").verify_directly_issued_by(certificates.signing_authority().certificate)


def test_a_key_that_was_half_written_at_the_first_start_is_put_aside(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    folder.certificates.mkdir(parents=True)
    key = folder.certificates / "authority.key"
    key.write_bytes(b"-----BEGIN")
    assert certificates.ensure([])
    assert key.with_suffix(".key.unused").read_bytes() == b"-----BEGIN"


def test_certificates_still_valid_serve_on_though_the_key_to_renew_them_is_kept_elsewhere(
    folder: SecurityFolder, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.renew([])
    lose_the_key(folder)
    before = files(folder)
    monkeypatch.setattr(module, "_RENEW_BEFORE", timedelta(days=module.DAYS + 1))
    with capture_logs() as logs:
        assert not certificates.ensure(["localhost"])
    assert files(folder) == before
    [line] = logs
    assert (line["log_level"], line["days_left"]) == ("error", module.DAYS - 1)
    assert "authority.key is missing" in line["reason"]


@pytest.mark.parametrize("unfit", ["expired", "incomplete", "short of a host"])
def test_certificates_that_cannot_serve_are_refused_when_they_cannot_be_renewed(
    folder: SecurityFolder,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    unfit: str,
) -> None:
    if unfit == "expired":
        monkeypatch.setattr(module, "DAYS", -1)
    certificates.renew([])
    lose_the_key(folder)
    if unfit == "incomplete":
        (folder.current / "ranking.key").unlink()
    with pytest.raises(VireoError, match=r"authority\.key is missing"):
        certificates.ensure(["vireo.example"] if unfit == "short of a host" else [])


@pytest.mark.parametrize("missing", ["ca.crt", "ranking.key", "operator.crt", "edge.crt"])
def test_a_missing_file_of_a_role_is_made_again_by_the_same_authority(
    folder: SecurityFolder, certificates: Certificates, missing: str
) -> None:
    certificates.renew([])
    authority = folder.authority.read_bytes()
    (folder.current / missing).unlink()
    assert certificates.ensure([])
    assert (folder.current / missing).exists()
    assert folder.authority.read_bytes() == authority


def test_a_home_of_an_earlier_build_without_slate_pods_gets_another_authority_and_serves_on(
    folder: SecurityFolder, certificates: Certificates
) -> None:
    certificates.renew([])
    for path in folder.certificates.glob("current/slate.*"):
        path.unlink()
    lose_the_key(folder)
    assert not certificates.ensure(["localhost"])
    certificates.replace_authority()
    certificates.renew([])
    assert read(folder, "slate").not_valid_after_utc == read(folder, "edge").not_valid_after_utc
