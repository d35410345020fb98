"""Certificates for loopback: made by openssl for clients of others, and those of a stack."""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from vireo.server.rpc.tls import TlsFiles, tls_name
from vireo.server.security.certificates import Authority

_NEW = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Key and certificate, in gRPC's order."""
        return self.key.read_bytes(), self.certificate.read_bytes()


def authority(folder: Path, name: str = "authority") -> Certificate:
    """An authority of its own."""
    return _new(folder, name)


def signed(folder: Path, name: str, by: Certificate) -> Certificate:
    """A certificate for 127.0.0.1 that an authority has signed."""
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    return _new(folder, name, "-CA", str(by.certificate), "-CAkey", str(by.key), *names)


def _new(folder: Path, name: str, *arguments: str) -> Certificate:
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    files = ["-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*_NEW.split(), *files, *arguments], check=True, capture_output=True)
    return made


def role_files(
    folder: Path,
    signer: Authority,
    role: str,
    *,
    trusts: Path,
    ends: datetime | None = None,
) -> TlsFiles:
    """The files of one process of ours, signed by any authority and to expire at any time.

    Args:
        folder: is made for them.
        signer: who signs.
        role: what the process is.
        trusts: the authority that it takes certificates of.
        ends: when its own expires.
    """
    folder.mkdir()
    files = TlsFiles(folder / f"{role}.crt", folder / f"{role}.key", trusts)
    certificate, key = signer.issue(role, ends=ends)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    return files


def serial(files: TlsFiles) -> int:
    """The serial number of a process's certificate, as its file is now."""
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


def shown_serial(port: int, role: str, client: TlsFiles) -> int:
    """The serial number of the certificate that a port of a process shows to a client."""
    context = ssl.create_default_context(cafile=client.authority)
    context.load_cert_chain(client.certificate, client.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname=tls_name(role)) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
