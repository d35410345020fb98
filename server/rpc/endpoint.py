"""The address of a collector of traces."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

COLLECTOR = "collector"
"""Role that a collector's certificate must name."""


class Endpoint(NamedTuple):
    """Where an OTLP/gRPC collector listens."""

    host: str
    port: int
    secure: bool
    """Whether by mutual TLS."""

    @staticmethod
    def of(url: str) -> Endpoint:
        """Return the endpoint of `http://host:port` or `https://host:port`.

        Raises:
            ValueError: it is another kind of address; the message shows one that is right.
        """
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.port is None
            or parts.path.strip("/")
            or parts.query
            or parts.username is not None
        ):
            raise ValueError(
                f"{url!r} isn't the address of an OTLP/gRPC collector, for example "
                "http://127.0.0.1:4317 or https://collector:4317"
            )
        return Endpoint(parts.hostname, parts.port, parts.scheme == "https")


def check_endpoint(url: str) -> None:
    """Raise ValueError unless `url` is empty or the address of a collector."""
    if url:
        Endpoint.of(url)
