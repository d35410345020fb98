"""Limits of the number of open streams, in all and for each address."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter

from server.errors import VireoError

REFUSED = Counter(
    "vireo_xds_streams_refused", "Streams refused by the limit of their address, or of all streams."
)


@dataclass(frozen=True)
class Limits:
    """Limits of concurrent streams, below the server's limit of concurrent RPCs."""

    all: int
    address: int = 300
    """Maximum streams of one address, which Envoys behind a proxy share."""
    first_request_seconds: float = 10.0
    """Maximum seconds until a stream's first request, which identifies its node."""


class TooManyStreamsError(VireoError):
    """A limit of concurrent streams is reached."""


class Streams:
    """Counts open streams."""

    def __init__(self, limits: Limits) -> None:
        """Start without streams."""
        self.limits = limits
        self.count = 0
        """Number of open streams."""
        self._addresses: Counts[str] = Counts()

    @contextmanager
    def counted(self, peer: str) -> Iterator[None]:
        """Count a stream during the block.

        Args:
            peer: as in gRPC's context, ending with the port.

        Raises:
            TooManyStreamsError: a limit is reached.
        """
        address = peer.rpartition(":")[0]
        if self.count >= self.limits.all:
            raise _refusal(f"all {self.limits.all} streams are in use")
        if self._addresses[address] >= self.limits.address:
            raise _refusal(f"this address has the maximum of {self.limits.address} streams")
        self.count += 1
        self._addresses[address] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def _refusal(why: str) -> TooManyStreamsError:
    REFUSED.inc()
    return TooManyStreamsError(f"{why}; retry later")
