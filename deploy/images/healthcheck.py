#!/opt/vireo/bin/python
"""Exits with 0 if the process of this container serves: `vireo-healthcheck ROLE SERVICE`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from vireo.server.rpc.health import health_problem
from vireo.server.rpc.tls import TlsFiles

_TIMEOUT = 4.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


def main(role: str, service: str) -> None:
    """Ask the process by grpc.health.v1; exit with the reason if it doesn't serve."""
    host = os.environ.get("VIREO_HOST", "127.0.0.1")
    address = f"{_EVERY_ADDRESS.get(host, host)}:{os.environ['VIREO_PORT']}"
    files = [os.environ.get(f"VIREO_TLS_{each}", "") for each in ("CERTIFICATE", "KEY", "CA")]
    tls = TlsFiles(*map(Path, files)) if all(files) else None
    if problem := asyncio.run(health_problem(address, service, _TIMEOUT, tls, role)):
        raise SystemExit(f"{service or role} at {address}: {problem}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
