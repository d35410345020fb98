"""Certificates and disks of this machine, and the certificate of an edge elsewhere."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Certificate, Disk, Facts
from vireo.ops.doctor.reach import split
from vireo.server.errors import VireoError


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probes of files, of folders, and of the certificate that the edge presents."""
    if deployment.certificates:
        yield Probe("certificates", partial(_files, deployment.certificates))
    if deployment.edge is not None and deployment.edge.ca is not None:
        yield Probe("the edge's certificate", partial(_presented, deployment))
    for what, folder in deployment.folders.items():
        yield Probe(f"the disk of {what}", partial(_disk, what, folder))


def _files(files: tuple[Path, ...]) -> Facts:
    return Facts(certificates=tuple(_certificate(str(file), file) for file in files))


def _certificate(name: str, file: Path) -> Certificate:
    try:
        return Certificate(name, min(_ends_in(file.read_bytes())))
    except (OSError, ValueError) as error:
        return Certificate(name, 0.0, f"it can't be read ({error})")


def _ends_in(pem: bytes) -> list[float]:
    """Return in how many seconds each certificate of a file ends; raise ValueError without one."""
    from cryptography import x509

    now = datetime.now(UTC)
    found = x509.load_pem_x509_certificates(pem)
    return [(each.not_valid_after_utc - now).total_seconds() for each in found]


def _presented(deployment: Deployment) -> Facts:
    assert deployment.edge is not None
    target = deployment.edge.target
    # What is presented is to be dated even if nobody should trust it any more.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(split(target), deployment.answer) as connection,
            context.wrap_socket(connection) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError as error:  # an SSLError is one
        raise VireoError(f"{target} presents none ({error})") from error
    pem = ssl.DER_cert_to_PEM_cert(der or b"").encode()
    return Facts(certificates=(Certificate(f"that of the edge, {target}", min(_ends_in(pem))),))


def _disk(what: str, folder: Path) -> Facts:
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    with suppress(OSError):
        if there is not None:
            usage = psutil.disk_usage(str(there))
            return Facts(disks=(Disk(what, str(folder), usage.free, usage.total),))
    raise VireoError(f"{folder} can't be looked at")
