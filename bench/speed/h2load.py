"""Load by h2load, which sends one prepared request over and over for next to no processor time.

h2load knows nothing of gRPC: an error is a success to it, since HTTP's status is 200. So an answer
to each request is decoded and checked beforehand, and in every run the answers together must have
exactly as many bytes as that many of that answer. An error or a slate that is less than full has
another length.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from tests.builders.http2 import grpc_frame
from vireo.server.errors import VireoError

GRPC = ("content-type: application/grpc", "te: trailers")
_WINDOW_BITS = 24
_REQUESTS = re.compile(r"requests: (\d+) total, .* (\d+) succeeded,")
_TRAFFIC = re.compile(r"traffic: .*\((\d+)\) data")


@dataclass(frozen=True)
class Prepared:
    """A request that h2load can send."""

    body: Path
    """File with what is posted."""
    answer_bytes: int
    """Length of the right answer's body."""
    headers: tuple[str, ...] = GRPC
    """`name: value` of each."""

    @staticmethod
    def of(body: Path, request: Message, answer: Message, headers: Sequence[str] = ()) -> Prepared:
        """Write a call whose right answer is known to the file `body`."""
        body.write_bytes(grpc_frame(request.SerializeToString()))
        return Prepared(body, len(grpc_frame(answer.SerializeToString())), (*GRPC, *headers))


@dataclass(frozen=True)
class LoadResult:
    """What one run came to."""

    requests: int
    wrong: int
    """Requests that failed, or got something else than the right answer."""
    seconds: float
    """From the first request to the last answer."""
    latencies: npt.NDArray[np.float64]
    """Seconds, float64[requests]."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    @property
    def p50(self) -> float:
        """Median latency in seconds."""
        return float(np.median(self.latencies))


@dataclass(frozen=True)
class Target:
    """A server, and requests for it that it has answered right."""

    name: str
    url: str
    requests: Sequence[Prepared]
    folder: Path
    """For h2load's logs."""
    http2: bool = True
    senders: int = 8
    """Processes of h2load at a time, each with one of the requests."""

    async def load(
        self,
        number: int,
        callers: int,
        requests: int,
        rate: float | None = None,
        max_wrong: float = 0.0,
    ) -> LoadResult:
        """Send requests by a process of h2load for each sender.

        Args:
            number: of the round; prepared requests take turns over rounds.
            callers: total number of closed-loop callers; those of a sender share a connection.
                One alone sends each sender's request in turn.
            requests: total number of requests.
            rate: total requests a second of an open loop; None for a closed loop.
            max_wrong: maximum share of wrong answers.

        Raises:
            VireoError: more answers than that are wrong, or h2load is missing or failed.
        """
        turn = self._turn(number, self.senders if callers == 1 else min(self.senders, callers))
        groups = [[each] for each in turn] if callers == 1 else [turn]
        runs = [await self._send(each, callers, requests // len(groups), rate) for each in groups]
        result = LoadResult(
            requests=sum(run.requests for run in runs),
            wrong=sum(run.wrong for run in runs),
            seconds=sum(run.seconds for run in runs),
            latencies=np.concatenate([run.latencies for run in runs]),
        )
        if result.wrong > max_wrong * result.requests:
            raise VireoError(
                f"{result.wrong} of {result.requests} answers of {self.name} are not the right ones"
            )
        return result

    def _turn(self, number: int, count: int) -> list[Prepared]:
        places = range(number * count, (number + 1) * count)
        return [self.requests[place % len(self.requests)] for place in places]

    async def _send(
        self, turn: Sequence[Prepared], callers: int, requests: int, rate: float | None
    ) -> LoadResult:
        if shutil.which("h2load") is None:
            raise VireoError("h2load is missing; install it with: make h2load")
        streams, share = max(1, callers // len(turn)), max(1, requests // len(turn))
        if rate is not None:
            rps = max(1, round(rate / len(turn)))
            shape = ["--clients=1", "--max-concurrent-streams=500", f"--rps={rps}"]
        elif self.http2:  # without TLS, by prior knowledge
            shape = ["--clients=1", f"--max-concurrent-streams={streams}"]
        else:
            shape = [f"--clients={streams}", "--h1"]
        shape.append(f"--requests={share}")
        logs = [self.folder / f"h2load-{number}.log" for number in range(len(turn))]
        for log in logs:  # h2load appends
            log.unlink(missing_ok=True)
        runs = (_h2load(self.url, each, log, shape) for each, log in zip(turn, logs, strict=True))
        done = await asyncio.gather(*runs)
        began = min(float(log[0, 0]) for log, _ in done)
        ended = max(float((log[:, 0] + log[:, 2]).max()) for log, _ in done)
        return LoadResult(
            requests=share * len(turn),
            wrong=sum(wrong for _, wrong in done),
            seconds=(ended - began) / 1e6,
            latencies=np.concatenate([log[:, 2] for log, _ in done]) / 1e6,
        )


async def _h2load(
    url: str, request: Prepared, log: Path, shape: Sequence[str]
) -> tuple[npt.NDArray[np.float64], int]:
    """Return one process's log and number of wrong answers.

    The log is float64[requests, 3], whose first and last columns are start and latency in µs.
    """
    process = await asyncio.create_subprocess_exec(
        "h2load",
        *shape,
        f"--window-bits={_WINDOW_BITS}",
        f"--connection-window-bits={_WINDOW_BITS}",
        f"--data={request.body}",
        f"--log-file={log}",
        *[f"--header={header}" for header in request.headers],
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    counted, traffic = _REQUESTS.search(output), _TRAFFIC.search(output)
    if process.returncode or counted is None or traffic is None or counted[2] == "0":
        raise VireoError(f"h2load failed on {url}: {output.strip()[-300:]}")
    total, succeeded = int(counted[1]), int(counted[2])
    lacking = abs(total * request.answer_bytes - int(traffic[1]))
    # The minimum number of wrong answers, since one may be missing, or a byte longer.
    wrong = max(total - succeeded, -(-lacking // max(1, request.answer_bytes)))
    return np.loadtxt(log, np.float64, ndmin=2, usecols=(0, 1, 2)), wrong
