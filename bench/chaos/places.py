"""Places on this machine that can be hurt: a second host, and a small disk for the log."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vireo.server.errors import VireoError
from vireo.server.home import Home

_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has."""
_DISK_MIB = 256
_BLOCK = b"\0" * (1 << 16)


class CannotRunError(VireoError):
    """This machine or user can't cause a fault; the message says why."""


@dataclass(frozen=True)
class OtherHost:
    """A network namespace."""

    address: str
    """IP address, reachable from here."""
    cable: str
    """The device at this end."""
    enter: tuple[str, ...]
    """Prefix of a command line that runs there."""

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Address all that is sent there to nobody, so that it is dropped silently, for a block.

        Every kernel can do that; to drop by rule takes modules that not all have.
        """
        nobody = ("lladdr", _NOBODY, "nud", "permanent", "dev", self.cable)
        _ip("neigh", "replace", self.address, *nobody)
        try:
            yield
        finally:
            _ip("neigh", "del", self.address, "dev", self.cable)  # it is asked for again


@contextmanager
def other_host(number: int) -> Iterator[OtherHost]:
    """Yield a host that exists until the block ends.

    Args:
        number: 0 to 255, unique among those that exist at a time.

    Raises:
        CannotRunError: it can't be made.
    """
    name, here, there = (f"{kind}{os.getpid()}" for kind in ("vireo-", "vrh", "vrt"))
    # 198.18.0.0/15 is set aside for benchmarks.
    subnet = f"198.18.{number}"
    host = OtherHost(f"{subnet}.2", here, ("ip", "netns", "exec", name))
    try:
        _ip("netns", "add", name)
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _ip("addr", "add", f"{subnet}.1/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", name, "addr", "add", f"{host.address}/30", "dev", there)
        for device in ("lo", there):
            _ip("-n", name, "link", "set", device, "up")
        yield host
    finally:
        for arguments in (("link", "del", here), ("netns", "del", name)):
            subprocess.run(["ip", *arguments], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise CannotRunError("the program ip is missing (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise CannotRunError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from error


def log_disk(home: Home) -> Path:
    """Return the folder of the embedded log's data."""
    return home.root / "log" / "data"


@contextmanager
def small_log_disk(home: Home) -> Iterator[None]:
    """Give the log of a stack that doesn't run yet a disk in memory, until the block ends.

    It stays without one unless this is root on Linux.
    """
    folder = log_disk(home)
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "vireo-chaos", str(folder)]
    with suppress(FileNotFoundError):
        subprocess.run(mount, capture_output=True, check=False)
    try:
        yield
    finally:
        unmount_log_disk(home)


def unmount_log_disk(home: Home) -> None:
    """Take the disk away, also one that a run which was killed has left."""
    if log_disk(home).is_mount():
        subprocess.run(["umount", "--lazy", str(log_disk(home))], capture_output=True, check=False)


@asynccontextmanager
async def filled(disk: Path) -> AsyncIterator[None]:
    """Fill a disk until the block ends; raise CannotRunError if it isn't one of its own."""
    if not await asyncio.to_thread(disk.is_mount):
        raise CannotRunError("the log has no disk of its own: that needs root on Linux")
    ballast = disk / "ballast"
    try:
        await asyncio.to_thread(_fill, ballast)
        yield
    finally:
        ballast.unlink()


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(_BLOCK)
        except OSError:
            return
