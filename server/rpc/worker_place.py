"""What a worker process of a pod is told by its supervisor, and what it tells that one."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Final

BEAT: Final = b"."
SERVES: Final = b"s"
BEAT_SECONDS = 1.0
_VARIABLE = "VIREO_WORKER_PLACE"


@dataclass(frozen=True)
class WorkerPlace:
    """A worker process's place among those of its pod."""

    number: int
    """From 1."""
    port: int
    """The pod's port, which all of them listen on."""
    late: bool
    """Whether it listens only once it serves, since others have the calls until then."""
    descriptor: int
    """Of the socket to the supervisor."""

    @staticmethod
    def taken() -> WorkerPlace | None:
        """The place of this process; None where it isn't a worker process. Ask once."""
        told = os.environ.pop(_VARIABLE, None)
        return None if told is None else WorkerPlace(**json.loads(told))

    @property
    def environment(self) -> dict[str, str]:
        """The variable that tells it to a process."""
        return {_VARIABLE: json.dumps(asdict(self))}

    def own(self, port: int) -> int:
        """This worker's own port, after one of the pod's; 0 where that is 0."""
        return port + self.number if port else 0


class SupervisorLink:
    """The way from a worker process to its supervisor."""

    def __init__(self, descriptor: int) -> None:
        """Takes the socket's descriptor, which no process started from here gets."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._socket.setblocking(False)

    def serves(self) -> None:
        """Tells that this process listens and serves."""
        self._send(SERVES)

    async def beat(self) -> None:
        """Tells every second that the event loop goes on, until cancelled."""
        while True:
            self._send(BEAT)
            await asyncio.sleep(BEAT_SECONDS)

    def _send(self, what: bytes) -> None:
        try:
            self._socket.send(what)
        except BlockingIOError:
            return  # a supervisor that is stopped hears what was said before
        except OSError:
            # It is gone. Where the kernel doesn't end this process for that, it does so itself.
            os._exit(1)
