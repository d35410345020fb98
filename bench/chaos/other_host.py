"""A second host on this machine: a network namespace, with a cable that can be cut."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.errors import VireoError

_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has."""


class NoNamespaceError(VireoError):
    """This machine or user may not make network namespaces; the message says why."""


@dataclass(frozen=True)
class OtherHost:
    """A network namespace and its address, as it is reached from here."""

    name: str
    address: str
    cable: str
    """The end that is here."""

    @property
    def enter(self) -> tuple[str, ...]:
        """What goes before a command line to run it there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """From now on all that is sent there is addressed to nobody, and dropped without a word.

        So it is in every kernel; dropping by rule takes modules that not all have.
        """
        _ip("neigh", "replace", self.address, *("lladdr", _NOBODY, "nud", "permanent"), *self._by)

    def mend(self) -> None:
        """Has the right hardware address asked for again."""
        _ip("neigh", "del", self.address, *self._by)

    @property
    def _by(self) -> tuple[str, str]:
        return ("dev", self.cable)


@contextmanager
def other_host(number: int) -> Iterator[OtherHost]:
    """The host, until the block ends.

    Args:
        number: 0 to 255, another for each at a time.

    Raises:
        NoNamespaceError: it can't be made.
    """
    name, here, there = (f"{kind}{os.getpid()}" for kind in ("vireo-", "vrh", "vrt"))
    # 198.18.0.0/15 is set aside for benchmarks.
    subnet = f"198.18.{number}"
    host = OtherHost(name, f"{subnet}.2", here)
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
        for words in (("link", "del", here), ("netns", "del", name)):
            subprocess.run(["ip", *words], capture_output=True, check=False)


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise NoNamespaceError("the program ip is missing (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(f"ip {' '.join(words)}: {error.stderr.strip()}") from error
