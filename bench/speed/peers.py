"""The peers: how each is started and asked, and how its answers are read."""

from __future__ import annotations

import base64
import json
import os
import pickle
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from rich.console import Console

from bench.peers.ranker import PORT, RELEASE, arrays_of
from bench.process import running
from bench.speed.h2load import GRPC, Prepared, Target, frame
from bench.stack import free_port_base
from vireo.inference import open_inference_pb2 as oip
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.recommend.ranking.pipeline import RankingQuery

_ROOT = Path(__file__).parent.parent.parent
_ASK_SECONDS = 10.0
SENDERS = 4
_TYPES = {"int64": "INT64", "float32": "FP32", "uint32": "UINT32", "uint8": "UINT8"}

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """How a peer is asked for a ranking."""

    path: str
    headers: tuple[str, ...]
    body: Callable[[RankingQuery], bytes]
    """Makes the body to post."""
    keys: Callable[[bytes], Keys]
    """Reads the ranked keys from an answer's body, int64[10]."""
    http2: bool = False
    """Whether it is gRPC, with bodies framed for h2load."""

    def ask(self, port: int, body: bytes) -> bytes:
        """Post a body once to a port, and return that of the answer."""
        if self.http2:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_unary(self.path)
                return frame(call(body[5:], timeout=_ASK_SECONDS))
        headers = dict(header.split(": ", 1) for header in self.headers)
        request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", body, headers)
        with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as response:  # noqa: S310
            answer: bytes = response.read()
        return answer


@dataclass(frozen=True)
class Environment:
    """A peer's environment, which `make bench-peers` makes."""

    name: str

    def python(self, home: Home) -> Path:
        """Return its Python."""
        return home.root / "peers" / self.name / "bin" / "python"


InEnvironment = TypeVar("InEnvironment", bound=Environment)


@dataclass(frozen=True)
class Peer(Environment):
    """One server."""

    command: tuple[str, ...]
    """Arguments of its environment's Python; `{port}` stands for the port."""
    protocol: Protocol
    quiet: bool = True
    """Whether it takes no processor time while idle."""


def _oip(query: RankingQuery) -> bytes:
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
    return frame(request.SerializeToString())


def _oip_keys(answer: bytes) -> Keys:
    response = oip.ModelInferResponse.FromString(answer[5:])
    place = [output.name for output in response.outputs].index("keys")
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[place], np.int64)
    return np.array(response.outputs[place].contents.int64_contents, np.int64)


def _pickled(query: RankingQuery) -> bytes:
    return pickle.dumps(arrays_of(query), protocol=5)


def _json(query: RankingQuery) -> bytes:
    return json.dumps({"arrays": base64.b64encode(_pickled(query)).decode()}).encode()


def _json_keys(answer: bytes) -> Keys:
    return np.array(json.loads(answer)["keys"], np.int64)


_OIP = Protocol("/inference.GRPCInferenceService/ModelInfer", GRPC, _oip, _oip_keys, http2=True)
_JSON = Protocol("/rank", ("content-type: application/json",), _json, _json_keys)
_PICKLED = Protocol("/rank", ("content-type: application/octet-stream",), _pickled, _json_keys)
_BENTOML = ("-m", "bentoml", "serve", "bench.peers.bentoml_service:Ranker", "--port", "{port}")
PEERS = (
    Peer("mlserver", ("-m", "bench.peers.mlserver_runtime"), _OIP),
    Peer("kserve", ("-m", "bench.peers.kserve_server"), _OIP),
    Peer("bentoml", _BENTOML, _JSON),
    Peer("litserve", ("-m", "bench.peers.litserve_server"), _JSON),
    Peer("rayserve", ("-m", "bench.peers.rayserve_server"), _PICKLED, quiet=False),
)


def made(peers: Sequence[InEnvironment], home: Home, console: Console) -> list[InEnvironment]:
    """Return the peers whose environment exists, and say which don't."""
    for peer in peers:
        if not peer.python(home).exists():
            console.print(f"{peer.name} is left out; make its environment with: make bench-peers")
    return [peer for peer in peers if peer.python(home).exists()]


@contextmanager
def serving(
    peer: Peer, home: Home, release: Path, cores: Sequence[int], log: Path, query: RankingQuery
) -> Iterator[int]:
    """Run a peer on some cores until the block ends; yield its port once it answers `query`.

    Raises:
        VireoError: it doesn't start; its output is in the log.
    """
    body = peer.protocol.body(query)
    ask = partial(peer.protocol.ask, body=body)
    with started(peer.python(home), peer.command, ask, log, {RELEASE: str(release)}, cores) as (
        port,
        _,
    ):
        yield port


@contextmanager
def started(
    python: Path,
    command: Sequence[str],
    ask: Callable[[int], object],
    log: Path,
    variables: Mapping[str, str],
    cores: Sequence[int] = (),
) -> Iterator[tuple[int, int]]:
    """Run a server in a peer's environment until the block ends; yield its port and process id.

    Args:
        python: the environment's Python.
        command: its arguments; `{port}` stands for the port.
        ask: asks a port something; the server is ready once that fails no more.
        log: file for its output.
        variables: environment variables besides this process's.
        cores: where it runs; anywhere if empty.

    Raises:
        VireoError: it doesn't start; its output is in the log.
    """
    port = free_port_base()

    def answers() -> bool:
        with suppress(OSError, grpc.RpcError):  # it may listen before its model is loaded
            ask(port)
            return True
        return False

    arguments = [str(python), *(part.format(port=port) for part in command)]
    own = {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", PORT: str(port), **variables}
    with running(arguments, log, answers, {**os.environ, **own}, folder=_ROOT, cores=cores) as pid:
        yield port, pid


def checked_peer(
    peer: Peer, port: int, pages: Sequence[tuple[RankingQuery, Keys]], folder: Path
) -> Target:
    """Ask a peer for each page once, and prepare it for h2load.

    Args:
        peer: its kind.
        port: its port.
        pages: queries, and the keys of the right answer, int64[10].
        folder: where to keep what h2load sends.

    Raises:
        VireoError: it answers something else.
    """
    protocol, prepared = peer.protocol, []
    for number, (query, keys) in enumerate(pages):
        body = folder / f"{peer.name}-{number}"
        body.write_bytes(protocol.body(query))
        answer = protocol.ask(port, body.read_bytes())
        if not np.array_equal(protocol.keys(answer), keys):
            raise VireoError(f"{peer.name} ranks {protocol.keys(answer)} instead of {keys}")
        prepared.append(Prepared(body, len(answer), protocol.headers))
    url = f"http://127.0.0.1:{port}{protocol.path}"
    return Target(peer.name, url, prepared, folder, protocol.http2, SENDERS)
