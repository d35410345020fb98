"""How many streams peers may hold: a client that opens them by the thousand gets no more."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter

from server.errors import VireoError

REFUSED = Counter(
    "vireo_xds_streams_refused", "Streams that were refused since their peer, or all, had enough."
)


@dataclass(frozen=True)
class Limits:
    """The most streams at a time, below what the server takes of calls of any kind."""

    all: int
    address: int = 300
    """Maximum streams of one address; Envoys behind a proxy share theirs."""
    first_request_seconds: float = 10.0
    """How long a stream may be there without saying whose it is."""


class TooManyStreamsError(VireoError):
    """There are as many streams as there may be."""


class Streams:
    """Counts the streams that last."""

    def __init__(self, limits: Limits) -> None:
        """Counts none yet."""
        self.limits = limits
        self.count = 0
        """How many there are."""
        self._addresses: Counts[str] = Counts()

    @contextmanager
    def counted(self, peer: str) -> Iterator[None]:
        """Count a stream for as long as the block lasts.

        Args:
            peer: as gRPC tells it, with the port at its end.

        Raises:
            TooManyStreamsError: there is no room for it.
        """
        address = peer.rpartition(":")[0]
        if self.count >= self.limits.all:
            raise _refusal(f"all {self.limits.all} streams are taken")
        if self._addresses[address] >= self.limits.address:
            raise _refusal(f"this address has {self.limits.address} streams, and gets no more")
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
    return TooManyStreamsError(f"{why}; ask again later")
