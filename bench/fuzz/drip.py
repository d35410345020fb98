"""Connections that send a byte now and then, and what others get meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

CONNECTIONS = 16
"""To each address; the metrics of a process serve 128 at a time."""
_INTERVAL = 0.4
"""Seconds between two bytes."""
_ROUNDS = 3
_PATIENCE = 3.0
"""Seconds within which a page must arrive."""
_ENDLESS = b"GET /live HTTP/1.1\r\nhost: drip\r\nx-more: " + b"x" * 60_000
_PAGES = ("/live", "/ready")


@asynccontextmanager
async def dripping(addresses: Sequence[str]) -> AsyncIterator[None]:
    """Hold connections to each host:port meanwhile, which send a request byte by byte."""
    all_begun = asyncio.Barrier(CONNECTIONS * len(addresses) + 1)
    async with asyncio.TaskGroup() as group:
        drips = [
            group.create_task(_drip(address, all_begun))
            for address in addresses
            for _ in range(CONNECTIONS)
        ]
        try:
            await all_begun.wait()
            yield
        finally:
            for drip in drips:
                drip.cancel()


async def unanswered(places: Mapping[str, str]) -> dict[str, list[str]]:
    """Ask for the probes' pages while connections drip into the same ports.

    Args:
        places: host:port of metrics, by name.

    Returns:
        Why pages of a place weren't answered, for places of which not all were.
    """
    found: dict[str, list[str]] = {}
    for _ in range(_ROUNDS):
        for place, address in places.items():
            for page in _PAGES:
                status = await _page(address, page)
                if status != "200":
                    found.setdefault(f"{place} {page}", []).append(status)
        await asyncio.sleep(_INTERVAL)
    return found


async def _drip(address: str, all_begun: asyncio.Barrier) -> None:
    """Send bytes of a request that never ends; connect again if the server closes."""
    begun = False
    while True:
        # The server may refuse or end it at any time.
        with suppress(OSError):
            reader, writer = await _connected(address)
            try:
                for byte in _ENDLESS:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    if not begun:
                        begun = True
                        await all_begun.wait()
                    if await _ended(reader):
                        break
            finally:
                writer.close()
        await asyncio.sleep(_INTERVAL)


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the next byte is due; return whether the server has closed the connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_INTERVAL):
            while await reader.read(4096):
                pass
            return True
    return False


async def _page(address: str, page: str) -> str:
    """Return the HTTP status of a page, or why there is none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await _connected(address)
            try:
                writer.write(f"GET {page} HTTP/1.1\r\nhost: probe\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer in {_PATIENCE:g} s"
    except OSError as error:
        return f"closed: {error}"
    return line[9:12].decode() if line.startswith(b"HTTP/1.") else f"answered {line[:80]!r}"


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))
