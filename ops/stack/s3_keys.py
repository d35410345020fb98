"""The certificate by which the parts of the embedded S3 server authenticate each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from vireo.server.security.certificates import Authority, certificate_pem, write_private

_CERTIFICATE, _KEY, _AUTHORITY = "internal.crt", "internal.key", "internal-ca.crt"
_GRPC = ("client", "master", "volume", "filer", "s3", "admin", "worker")
_HTTPS = ("client", "master", "volume", "filer", "admin")
_DAYS = 3650


def write_internal_keys(folder: Path) -> None:
    """Write a new certificate, and the security.toml that makes every internal port require it.

    SeaweedFS is several servers in one process, which call each other at ports of their own. By
    default those serve anybody: the filer's lets the whole store be read and replaced without
    the keys of S3. With mutual TLS only this process gets through. The key that signed the
    certificate is not kept, so there is never a second one.

    Args:
        folder: the server's working directory, which only its owner may enter; SeaweedFS looks
            for security.toml there before it looks elsewhere.
    """
    authority = Authority.new("vireo s3", days=_DAYS)
    certificate, key = authority.sign(
        "s3.vireo",
        ["127.0.0.1"],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        datetime.now(UTC) + timedelta(days=_DAYS),
    )
    replace_private(folder / _AUTHORITY, certificate_pem(authority.certificate))
    replace_private(folder / _CERTIFICATE, certificate)
    replace_private(folder / _KEY, key)
    replace_private(folder / "security.toml", _security_toml().encode())


def _security_toml() -> str:
    pair = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    sections = [f'[grpc]\nca = "{_AUTHORITY}"\n']
    sections += [f"[grpc.{part}]\n{pair}" for part in _GRPC]
    sections += [f'[https.{part}]\n{pair}ca = "{_AUTHORITY}"\n' for part in _HTTPS]
    return "\n".join(sections).replace("[https.client]\n", "[https.client]\nenabled = true\n")


def replace_private(path: Path, contents: bytes) -> None:
    """Replace a file by one that only its owner may read."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    write_private(fresh, contents)
    fresh.replace(path)
