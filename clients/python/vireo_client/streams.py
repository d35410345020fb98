"""The requests of a stream, as gRPC reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from vireo_client.request import Call


class Sent(Iterator[Any]):
    """Remembers what a caller's own iterator raises: gRPC itself would hide it."""

    def __init__(self, requests: Iterator[Any]) -> None:
        """Read from `requests`."""
        self._requests = requests
        self._raised: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self._raised = error
            raise

    def reraise(self, call: Call[Any]) -> None:
        """Raise what ended the iterator, if anything but its end did."""
        if isinstance(self._raised, ValueError):
            raise call.invalid(self._raised) from self._raised
        if self._raised is not None:
            raise self._raised
