"""Load by h2load, which sends one prepared request over and over for next to no time of its own.

h2load knows nothing of gRPC: an error is a success to it, since HTTP's status is 200. So an answer
to each request is decoded and checked beforehand, and in every run the answers together must have
exactly as many bytes as so many of that one. Any other answer, an error or a slate that is less
than full, has another length.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from server.errors import VireoError

_WINDOW_BITS = 24
_REQUESTS = re.compile(r"requests: (\d+) total, .* (\d+) succeeded,")
_TRAFFIC = re.compile(r"traffic: .*\((\d+)\) data")
GRPC = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Shot:
    """One request, prepared, and what comes back for it."""

    body: Path
    """File with what is posted."""
    answer_bytes: int
    """Length of the right answer's body."""
    headers: tuple[str, ...] = GRPC
    """`name: value` of each."""

    @staticmethod
    def of(body: Path, request: Message, answer: Message, headers: Sequence[str] = ()) -> Shot:
        """Return a call whose right answer is known; `body` is written."""
        body.write_bytes(frame(request.SerializeToString()))
        return Shot(body, len(frame(answer.SerializeToString())), (*GRPC, *headers))


@dataclass(frozen=True)
class Volley:
    """What one run came to."""

    requests: int
    wrong: int
    """Requests that failed, or were answered by something else than the right answer."""
    seconds: float
    """From the first request to the last answer."""
    latencies: npt.NDArray[np.float64]
    """Seconds, float64[requests]."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Target:
    """A server, and requests for it that it has answered right."""

    name: str
    url: str
    shots: Sequence[Shot]
    folder: Path
    """For h2load's logs."""
    http2: bool = True
    senders: int = 8
    """Processes of h2load at a time, a shot each."""

    async def fire(
        self,
        number: int,
        callers: int,
        requests: int,
        rate: float | None = None,
        max_wrong: float = 0.0,
    ) -> Volley:
        """Send requests, a process of h2load for each sender; shots get their turn over rounds.

        Args:
            number: of the round.
            callers: who ask one request after the other, all together; those of a sender share a
                connection.
            requests: how many to send, all together.
            rate: requests a second, all together, that leave whether or not answers come back;
                None sends each caller's next one at its answer.
            max_wrong: the share of answers that may be wrong.

        Raises:
            VireoError: more answers than that are wrong, or h2load is missing or failed.
        """
        shots = self._turn(number, min(self.senders, callers))
        return self._checked(await self._volley(shots, callers, requests, rate), max_wrong)

    async def p50(self, number: int, requests: int) -> float:
        """Return the median seconds of an answer to one caller, over a few shots in turn."""
        turn = self._turn(number, self.senders)
        took = [
            self._checked(await self._volley([shot], 1, requests // len(turn))).latencies
            for shot in turn
        ]
        return float(np.median(np.concatenate(took)))

    def _turn(self, number: int, count: int) -> list[Shot]:
        return [self.shots[(number * count + place) % len(self.shots)] for place in range(count)]

    async def _volley(
        self, shots: Sequence[Shot], callers: int, requests: int, rate: float | None = None
    ) -> Volley:
        if shutil.which("h2load") is None:
            raise VireoError("h2load is missing; install it with: make h2load")
        each, of_shot = max(1, callers // len(shots)), max(1, requests // len(shots))
        if rate is not None:
            rps = max(1, round(rate / len(shots)))
            shape = ["--clients=1", "--max-concurrent-streams=500", f"--rps={rps}"]
        elif self.http2:  # without TLS, by prior knowledge
            shape = ["--clients=1", f"--max-concurrent-streams={each}"]
        else:
            shape = [f"--clients={each}", "--h1"]
        shape.append(f"--requests={of_shot}")
        logs = [self.folder / f"h2load-{number}.log" for number in range(len(shots))]
        for log in logs:  # h2load adds to one that is there
            log.unlink(missing_ok=True)
        done = await asyncio.gather(
            *(_one(self.url, shot, log, shape) for shot, log in zip(shots, logs, strict=True))
        )
        began = min(float(log[0, 0]) for log, _ in done)
        ended = max(float((log[:, 0] + log[:, 2]).max()) for log, _ in done)
        return Volley(
            requests=of_shot * len(shots),
            wrong=sum(wrong for _, wrong in done),
            seconds=(ended - began) / 1e6,
            latencies=np.concatenate([log[:, 2] for log, _ in done]) / 1e6,
        )

    def _checked(self, volley: Volley, max_wrong: float = 0.0) -> Volley:
        if volley.wrong > max_wrong * volley.requests:
            raise VireoError(
                f"{volley.wrong} of {volley.requests} answers of {self.name} are not those that "
                "they must be"
            )
        return volley


def frame(message: bytes) -> bytes:
    """Return a gRPC message as it goes over the wire: uncompressed, its length before it."""
    return struct.pack(">BI", 0, len(message)) + message


async def _one(
    url: str, shot: Shot, log: Path, shape: list[str]
) -> tuple[npt.NDArray[np.float64], int]:
    """One process's log, float64[requests, 3] (start and latency in µs), and its wrong answers."""
    process = await asyncio.create_subprocess_exec(
        "h2load",
        *shape,
        f"--window-bits={_WINDOW_BITS}",
        f"--connection-window-bits={_WINDOW_BITS}",
        f"--data={shot.body}",
        f"--log-file={log}",
        *[f"--header={header}" for header in shot.headers],
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    counted, traffic = _REQUESTS.search(output), _TRAFFIC.search(output)
    if process.returncode or counted is None or traffic is None:
        raise VireoError(f"h2load failed on {url}: {output.strip()[-300:]}")
    total, succeeded = int(counted[1]), int(counted[2])
    if not succeeded:
        raise VireoError(f"h2load failed on {url}: nothing was answered")
    lacking = abs(total * shot.answer_bytes - int(traffic[1]))
    # A wrong answer may be a byte off as well as missing: so many there are at least.
    wrong = max(total - succeeded, -(-lacking // max(1, shot.answer_bytes)))
    return np.loadtxt(log, np.float64, ndmin=2, usecols=(0, 1, 2)), wrong
