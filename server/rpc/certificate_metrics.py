"""Prometheus metrics of the certificates that a process uses."""

from __future__ import annotations

from prometheus_client import Gauge

EXPIRY = Gauge(
    "vireo_certificate_expiry_timestamp_seconds",
    "End of validity of the certificate that handshakes use, and of its authority; the earliest if "
    "a file has several.",
    ["file"],
)


def export_expiry(certificate: bytes, authority: bytes) -> None:
    """Export until when the certificates of two PEM files are valid.

    Without the `security` extra, which reads certificates, nothing is exported. Neither is a file
    that holds none: gRPC, which gets it too, reports it.
    """
    try:
        from cryptography.x509 import load_pem_x509_certificates
    except ModuleNotFoundError:
        return
    for file, content in (("certificate", certificate), ("authority", authority)):
        try:
            held = load_pem_x509_certificates(content)
        except ValueError:
            continue
        EXPIRY.labels(file).set(min(each.not_valid_after_utc.timestamp() for each in held))
