"""The chain that Ray Serve makes of the same pipelines: how it is started and asked."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from bench.peers import PORT, RELEASE, VIEWERS
from bench.process import running
from bench.speed.h2load import Prepared, Target
from bench.speed.questions import Ask, Question, check_slate
from bench.speed.stand import Served
from vireo.ops.stack.ports import free_port_base
from vireo.server.home import Home

_CHECKOUT = Path(__file__).parents[2]
_TITLE = "Ray Serve's chain"
_COMMAND = ("-m", "bench.peers.rayserve_chain")
_JSON = "content-type: application/json"
_ASK_SECONDS = 10.0


def peer_python(home: Home) -> Path:
    """Return the Python of its environment, which `make bench-peers` makes."""
    return home.root / "peers" / "rayserve" / "bin" / "python"


@contextmanager
def serving_chain(
    python: Path, release: Path, questions: Sequence[Question], folder: Path
) -> Iterator[Served]:
    """Run the chain until the block ends; yield it once it has answered every question right.

    Raises:
        VireoError: it doesn't start, or its answer is wrong.
    """
    viewers, port = folder / "peer-viewers", free_port_base()
    viewers.write_bytes(pickle.dumps({each.viewer_id: each.query.viewer for each in questions}))

    def answers() -> bool:
        with suppress(OSError):  # it may listen before its models are loaded
            _ask(port, questions[0])
            return True
        return False

    own = {"PYTHONPATH": str(_CHECKOUT), "OMP_NUM_THREADS": "1", PORT: str(port)}
    environment = {**os.environ, **own, RELEASE: str(release), VIEWERS: str(viewers)}
    log = folder / "rayserve-chain.log"
    with running([python, *_COMMAND], log, answers, environment, folder=_CHECKOUT) as pid:
        prepared = []
        for number, question in enumerate(questions):
            body = folder / f"peer-{number}.json"
            body.write_bytes(_body(question))
            prepared.append(Prepared(body, len(_ask(port, question)), (_JSON,)))
        target = Target(_TITLE, f"http://127.0.0.1:{port}/", prepared, folder, http2=False)
        yield Served(target, {"all": pid}, questions, partial(_asking, port))


@asynccontextmanager
async def _asking(port: int) -> AsyncIterator[Ask]:
    yield lambda question: asyncio.to_thread(_ask, port, question)


def _ask(port: int, question: Question) -> bytes:
    """Return the answer's body; raise VireoError unless it is the right slate."""
    url, headers = f"http://127.0.0.1:{port}/", dict([_JSON.split(": ")])
    request = urllib.request.Request(url, _body(question), headers)
    with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as response:  # noqa: S310
        body: bytes = response.read()
    answer = json.loads(body)
    check_slate(question, answer["ids"], answer["scores"])
    return body


def _body(question: Question) -> bytes:
    asked = question.request
    fields = {"viewer_id": asked.viewer_id, "page_size": asked.page_size}
    return json.dumps({**fields, "time": asked.context.time.seconds}).encode()
