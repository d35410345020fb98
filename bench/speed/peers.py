"""The peers: how each is started, asked and understood."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
import numpy as np
import numpy.typing as npt
import psutil
from inference import open_inference_pb2 as oip

from bench.peers.ranker import PORT, RELEASE, arrays_of
from bench.speed.cpu import pin
from bench.speed.h2load import Shot, frame
from server.errors import VireoError
from server.home import Home
from server.ranking.pipeline import RankingQuery

_ROOT = Path(__file__).parent.parent.parent
_START_SECONDS = 240.0
_STOP_SECONDS = 10.0
_OIP_PATH = "/inference.GRPCInferenceService/ModelInfer"
_TYPES = {"int64": "INT64", "float32": "FP32", "uint32": "UINT32", "uint8": "UINT8"}


@dataclass(frozen=True)
class Question:
    """One request for a peer, prepared."""

    body: bytes
    headers: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class Peer:
    """One server."""

    name: str
    bound: float | None
    """Requests a second of a ranking pod over its own, at least; None where it is only told."""
    command: tuple[str, ...]
    """Arguments of its environment's Python; `{port}` stands for the port."""
    question: Callable[[RankingQuery], Question]
    http2: bool
    quiet: bool = True
    """Whether it takes no processor time while nobody asks it."""

    def python(self, home: Home) -> Path:
        """Python of its environment, which `make bench-peers` makes."""
        return home.root / "peers" / self.name / "bin" / "python"


def _oip(query: RankingQuery) -> Question:
    arrays = arrays_of(query)
    request = oip.ModelInferRequest(
        model_name="ranker",
        id="bench",
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name=name, datatype=_TYPES[array.dtype.name], shape=array.shape
            )
            for name, array in arrays.items()
        ],
        raw_input_contents=[array.tobytes() for array in arrays.values()],
    )
    headers = ("content-type: application/grpc", "te: trailers")
    return Question(frame(request.SerializeToString()), headers, _OIP_PATH)


def _json(query: RankingQuery) -> Question:
    packed = base64.b64encode(pickle.dumps(arrays_of(query), protocol=5)).decode()
    body = json.dumps({"arrays": packed}).encode()
    return Question(body, ("content-type: application/json",), "/rank")


def _pickled(query: RankingQuery) -> Question:
    body = pickle.dumps(arrays_of(query), protocol=5)
    return Question(body, ("content-type: application/octet-stream",), "/rank")


PEERS = (
    Peer("mlserver", 1.3, ("-m", "bench.peers.mlserver_runtime"), _oip, http2=True),
    Peer("kserve", 1.2, ("-m", "bench.peers.kserve_server"), _oip, http2=True),
    Peer(
        "bentoml",
        2.5,
        ("-m", "bentoml", "serve", "bench.peers.bentoml_service:Ranker", "--port", "{port}"),
        _json,
        http2=False,
    ),
    Peer("litserve", 2.5, ("-m", "bench.peers.litserve_server"), _json, http2=False),
    Peer(
        "rayserve",
        None,
        ("-m", "bench.peers.rayserve_server"),
        _pickled,
        http2=False,
        quiet=False,
    ),
)


@contextmanager
def serving(
    peer: Peer, home: Home, release: Path, cores: Sequence[int], log: Path
) -> Iterator[int]:
    """The port of a peer that runs on some cores until the block ends.

    Raises:
        VireoError: it doesn't start; its output is in the log.
    """
    port = _free_ports()
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [peer.python(home), *(part.format(port=port) for part in peer.command)],
            cwd=_ROOT,
            env={
                **kept,
                "PYTHONPATH": str(_ROOT),
                "OMP_NUM_THREADS": "1",
                RELEASE: str(release),
                PORT: str(port),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: pin(cores),
        )
    try:
        _await_port(port, process, peer, log)
        yield port
    finally:
        workers = _workers(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):  # workers may outlive the one that was waited for
            os.killpg(process.pid, signal.SIGKILL)
        for worker in workers:  # Ray's have groups of their own
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        process.wait()


def _workers(pid: int) -> list[psutil.Process]:
    """All that a process has started, and those that these have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def shot(
    peer: Peer, port: int, query: RankingQuery, keys: npt.NDArray[np.int64], body: Path
) -> Shot:
    """Asks a peer once, and prepares the same for h2load in the file `body`.

    Args:
        peer: whom to ask.
        port: where it answers.
        query: what to ask.
        keys: the page that it must answer, int64[10].
        body: where to keep the request.

    Raises:
        VireoError: it answers something else.
    """
    question = peer.question(query)
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            answer = (_ask_oip if peer.http2 else _ask_http)(port, question)
            break
        except (OSError, grpc.RpcError) as error:
            refused = isinstance(error, HTTPError) and error.code != HTTPStatus.SERVICE_UNAVAILABLE
            if refused or time.monotonic() > until:
                raise VireoError(f"{peer.name} does not answer: {error}") from error
            time.sleep(0.5)  # it listens before its model is loaded
    got = _keys(peer, answer)
    if not np.array_equal(got, keys):
        raise VireoError(f"{peer.name} ranks otherwise: {got} instead of {keys}")
    body.write_bytes(question.body)
    length = len(frame(answer)) if peer.http2 else len(answer)
    return Shot(body, length, question.headers)


def _ask_oip(port: int, question: Question) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary(question.path)  # bytes in, bytes out
        answer: bytes = ask(question.body[5:], timeout=10)
    return answer


def _ask_http(port: int, question: Question) -> bytes:
    headers = dict(header.split(": ", 1) for header in question.headers)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{question.path}", question.body, headers
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        body: bytes = response.read()
    return body


def _keys(peer: Peer, answer: bytes) -> npt.NDArray[np.int64]:
    """The keys that an answer ranks."""
    if not peer.http2:
        listed: Mapping[str, list[int]] = json.loads(answer)
        return np.array(listed["keys"], np.int64)
    response = oip.ModelInferResponse.FromString(answer)
    place = [output.name for output in response.outputs].index("keys")
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[place], np.int64)
    return np.array(response.outputs[place].contents.int64_contents, np.int64)


def _free_ports() -> int:
    """A free port whose next one is free, too."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise VireoError("no two free ports side by side")


def _await_port(port: int, process: subprocess.Popen[bytes], peer: Peer, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise VireoError(f"{peer.name} did not start; see {log}") from None
            time.sleep(0.3)
