"""Chains that peers make of several services: how each is started and asked."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.peers import ranker, stages
from bench.speed.asked import Ask, Question, check_slate
from bench.speed.h2load import Prepared, Target
from bench.speed.peers import Environment, started
from bench.speed.served import Served
from vireo.server.home import Home

_JSON = "content-type: application/json"
_ASK_SECONDS = 10.0


@dataclass(frozen=True)
class PeerChain(Environment):
    """One peer's chain."""

    title: str
    command: tuple[str, ...]
    """Arguments of its environment's Python; `{port}` stands for the port."""
    path: str = "/"
    """Where it is posted to."""


PEER_CHAINS = (PeerChain("rayserve", "Ray Serve's chain", ("-m", "bench.peers.rayserve_chain")),)


@contextmanager
def serving_chain(
    peer: PeerChain, home: Home, release: Path, questions: Sequence[Question], folder: Path
) -> Iterator[Served]:
    """Run a peer's chain until the block ends; yield it once it has answered every question right.

    Raises:
        VireoError: it doesn't start, or its answer is wrong.
    """
    viewers = folder / f"{peer.name}-viewers"
    stages.write_viewers(viewers, {each.viewer_id: each.query.viewer for each in questions})
    variables = {ranker.RELEASE: str(release), stages.VIEWERS: str(viewers)}
    log, first = folder / f"{peer.name}-chain.log", questions[0]
    ask = partial(_ask, peer, question=first)
    with started(peer.python(home), peer.command, ask, log, variables) as (port, pid):
        prepared = []
        for number, question in enumerate(questions):
            body = folder / f"{peer.name}-{number}.json"
            body.write_bytes(_body(question))
            prepared.append(Prepared(body, len(_ask(peer, port, question)), (_JSON,)))
        url = f"http://127.0.0.1:{port}{peer.path}"
        target = Target(peer.title, url, prepared, folder, http2=False)
        yield Served(target, {"all": pid}, questions, partial(_asking, peer, port))


@asynccontextmanager
async def _asking(peer: PeerChain, port: int) -> AsyncIterator[Ask]:
    yield lambda question: asyncio.to_thread(_ask, peer, port, question)


def _ask(peer: PeerChain, port: int, question: Question) -> bytes:
    """Return the answer's body; raise VireoError unless it is the right slate."""
    url, headers = f"http://127.0.0.1:{port}{peer.path}", dict([_JSON.split(": ")])
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
