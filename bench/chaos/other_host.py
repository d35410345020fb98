"""A second host on this machine: a network namespace, with a cable that can be cut."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vireo.server.errors import VireoError

_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has."""


class NoNamespaceError(VireoError):
    """This machine or user may not make network namespaces; the message says why."""


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
        """Have all that is sent there addressed to nobody, and so dropped silently, for a block.

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
        NoNamespaceError: it can't be made.
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
        raise NoNamespaceError("the program ip is missing (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from error
