"""Certificates for the processes of a stack on this machine, and the CA that signs them."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vireo.server.errors import VireoError
from vireo.server.rpc.tls import tls_name
from vireo.server.security.folder import SecurityFolder

log = structlog.get_logger()

Key: TypeAlias = ec.EllipticCurvePrivateKey

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
ROLES: Mapping[str, tuple[x509.ObjectIdentifier, ...]] = {
    "edge": (_SERVER,),
    "envoy": (_SERVER, _CLIENT),
    "gateway": (_SERVER, _CLIENT),
    "slate": (_SERVER, _CLIENT),
    "candidate": (_SERVER, _CLIENT),
    "ranking": (_SERVER, _CLIENT),
    "control": (_SERVER, _CLIENT),
    "consumer": (_SERVER, _CLIENT),
    "operator": (_CLIENT,),
}
"""Roles with a certificate, and its use as server, client or both: `edge` is presented to callers,
`operator` is for the command line and for operators."""

_SERVICES: Mapping[str, tuple[str, ...]] = {"slate": ("gateway", "candidate", "ranking")}
"""Roles whose names a role's certificate has too: Envoy expects each pool's pods under its name."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 3650
DAYS = 90
"""Lifetime of a role's certificate in days."""
_RENEW_BEFORE = timedelta(days=DAYS / 3)
_CLOCK_SKEW = timedelta(minutes=5)
"""Allowance for clock skew: certificates are valid from this long before they are created."""
_KEPT = 2


@dataclass(frozen=True)
class Authority:
    """A certificate authority (CA)."""

    certificate: x509.Certificate
    key: Key

    @staticmethod
    def new(name: str = "vireo", days: int = AUTHORITY_DAYS) -> Authority:
        """Create a self-signed authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common_name(f"{name} authority")
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_identifier(key), critical=False)
            .sign(key, hashes.SHA256())
        )
        return Authority(certificate, key)

    def issue(
        self, role: str, hosts: Sequence[str] = (), *, ends: datetime | None = None
    ) -> tuple[bytes, bytes]:
        """Return a certificate for a role and its key, as PEM.

        Args:
            role: one of ROLES.
            hosts: further names and IP addresses, besides the role's name.
            ends: time of expiry; after DAYS by default.
        """
        ends = ends or datetime.now(UTC) + timedelta(days=DAYS)
        return self.sign(tls_name(role), hosts, ROLES[role], ends)

    def sign(
        self,
        common_name: str,
        hosts: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        ends: datetime,
    ) -> tuple[bytes, bytes]:
        """Return a certificate for a name and further hosts, and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        begins = min(datetime.now(UTC), ends - _CLOCK_SKEW) - _CLOCK_SKEW
        names = x509.SubjectAlternativeName(map(_alternative, dict.fromkeys([common_name, *hosts])))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        subject = _common_name(common_name)
        certificate = (
            x509.CertificateBuilder(self.certificate.subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(names, critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(_identifier(key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate_pem(certificate), key_pem(key)


class Certificates:
    """The certificates of a folder: the authority's, and those of all roles.

    The latter are in a subfolder that the link `current` points to. They are renewed together by
    an atomic rename of that link, which watchers of the folder notice.
    """

    def __init__(self, folder: SecurityFolder) -> None:
        """Hold the folder; nothing is read or created yet."""
        self._current = folder.current
        self._folder = folder.certificates

    def ensure(self, hosts: Sequence[str]) -> bool:
        """Create certificates if any is missing, expires soon, or lacks a host.

        Returns whether they were created.

        Raises:
            VireoError: they can't be created, and the existing ones can't be used either.
        """
        try:
            ends, names = self._state()
        except FileNotFoundError:
            self.renew(hosts)
            return True
        left = ends - datetime.now(UTC)
        files = ["ca.crt", *(f"{role}.{kind}" for role in ROLES for kind in ("crt", "key"))]
        missing = [name for name in files if not (self._current / name).exists()]
        if not missing and set(hosts) <= set(names) and left > _RENEW_BEFORE:
            return False
        # Those of earlier builds lack the slate pod's, which no other process needs.
        fit = all(name.startswith("slate.") for name in missing) and set(hosts) <= set(names)
        try:
            self.renew(hosts)
        except VireoError as error:
            # The authority's key may be kept elsewhere: valid certificates are used until expiry.
            if not fit or left <= timedelta():
                raise
            log.error("certificates can't be renewed", days_left=left.days, reason=str(error))
            return False
        return True

    def renew(self, hosts: Sequence[str]) -> None:
        """Renew the certificate of each role; create the authority only if there is none.

        Callers reach the edge by `hosts`, loopback, and those of its current certificate.
        """
        authority = self.signing_authority()
        known: tuple[str, ...] = ()
        before: list[x509.Certificate] = []
        with suppress(FileNotFoundError):
            _, known = self._state()
            before = _issuers(self._current)
        made = self._new_folder([authority.certificate, *before])
        for role in ROLES:
            # Only the edge is reached by address, so no other process can impersonate it.
            names = [*LOOPBACK, *known, *hosts] if role == "edge" else []
            names += map(tls_name, _SERVICES.get(role, ()))
            certificate, key = authority.issue(role, names)
            (made / f"{role}.crt").write_bytes(certificate)
            write_private(made / f"{role}.key", key)
        self._publish(made)

    def replace_authority(self) -> None:
        """Create another authority, which everyone trusts from now on beside the one in use.

        The certificates stay; the next renewal is signed by the new authority. The one after it
        drops the old one, as nobody has a certificate of it any more.

        Raises:
            VireoError: there are no certificates yet.
        """
        if not (self._current / "ca.crt").exists():
            raise VireoError(
                f"{self._current} has no certificates; make some: vireo certificates make"
            )
        before = _issuers(self._current)
        (self._folder / "authority.key").unlink(missing_ok=True)  # it signs nothing more
        fresh = self._new_authority()
        made = self._new_folder([fresh.certificate, *before])
        for file in self._current.iterdir():  # not of ROLES: an earlier build had fewer
            if file.name != "ca.crt":
                shutil.copy2(file, made)
        self._publish(made)

    def _new_folder(self, trusted: Sequence[x509.Certificate]) -> Path:
        """Return a new folder for certificates; its `ca.crt` has the authorities, each once."""
        made = self._folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        made.mkdir(mode=0o700, parents=True)
        (made / "ca.crt").write_bytes(b"".join(map(certificate_pem, dict.fromkeys(trusted))))
        return made

    def _publish(self, made: Path) -> None:
        """Have all processes read the files of this folder from now on."""
        link = self._folder / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(made.name)
        link.replace(self._current)
        # A process may still be reading the previous ones.
        for old in sorted(self._folder.glob("2*T*"))[:-_KEPT]:
            shutil.rmtree(old)

    def signing_authority(self) -> Authority:
        """Return the authority, created if there never was one.

        Raises:
            VireoError: the certificate or key of the authority in use is missing, or they don't
                match. With a new authority, running processes would no longer trust each other,
                nor callers the edge.
        """
        certificate, key = self._folder / "authority.crt", self._folder / "authority.key"
        in_use = self._current / "ca.crt"
        if not certificate.exists() and not in_use.exists():
            return self._new_authority()
        begin_anew = "to go on with another authority: vireo certificates replace-authority"
        for path in (key, certificate):
            if not path.exists():
                copy = f" ({in_use} is a copy)" if path == certificate and in_use.exists() else ""
                raise VireoError(
                    f"{path} is missing, and without it no certificate can be renewed; put it "
                    f"back{copy}, or, {begin_anew}"
                )
        authority = Authority(_certificate(certificate), load_key(key))
        if authority.certificate.public_key() != authority.key.public_key():
            raise VireoError(
                f"{key} is not the key of {certificate}; put the right one back, or, {begin_anew}"
            )
        if in_use.exists() and authority.certificate not in _certificates(in_use):
            raise VireoError(
                f"{certificate} is not the authority of the certificates in use ({in_use}); put "
                f"that one and its key back, or, {begin_anew}"
            )
        return authority

    def _new_authority(self) -> Authority:
        """Create the authority, its key first, since a key without certificate is unused."""
        certificate, key = self._folder / "authority.crt", self._folder / "authority.key"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if key.exists():  # of an interrupted start, or put there without its certificate
            key.replace(key.with_suffix(".key.unused"))
        fresh = Authority.new()
        write_private(key, key_pem(fresh.key))
        whole = certificate.with_suffix(".new")
        whole.write_bytes(certificate_pem(fresh.certificate))
        whole.replace(certificate)
        return fresh

    def _state(self) -> tuple[datetime, tuple[str, ...]]:
        """Return the expiry of the edge's certificate, as of all others, and its hosts."""
        edge = _certificate(self._current / "edge.crt")
        names = edge.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return edge.not_valid_after_utc, tuple(str(each.value) for each in names)


def write_private(path: Path, contents: bytes) -> None:
    """Write a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(contents)


def key_pem(key: Key) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _issuers(folder: Path) -> list[x509.Certificate]:
    """Return those authorities in a folder's `ca.crt` that signed its certificates."""
    signed, found = _certificate(folder / "edge.crt"), list[x509.Certificate]()
    for each in _certificates(folder / "ca.crt"):
        with suppress(ValueError, InvalidSignature):
            signed.verify_directly_issued_by(each)
            found.append(each)
    return found


def _certificate(path: Path) -> x509.Certificate:
    return _certificates(path)[0]


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise VireoError(f"{path} is not a PEM certificate ({error}); put it back") from error


def load_key(path: Path) -> Key:
    """Return a private key.

    Raises:
        VireoError: the file isn't an unencrypted elliptic curve key in PEM.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise VireoError(f"{path} can't be read as a private key ({error}); put it back") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise VireoError(f"{path} is not an elliptic curve key; put the previous one back")
    return key


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _identifier(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
