"""The bare chain's processes, which are measured beside Vireo's own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from bench import bare
from bench.process import running
from bench.speed.asked import Question
from bench.stack import free_port_base
from vireo.v1 import candidate_pb2, viewer_pb2


@contextmanager
def bare_server(
    role: str, release: Path, folder: Path, *upstreams: str | Path
) -> Iterator[tuple[str, int]]:
    """Run one process of the bare chain until the block ends; yield host:port and its id.

    Args:
        role: candidate, ranking, gateway or memory; see `bench.bare`.
        release: the folder that it serves.
        folder: for its log.
        upstreams: what a gateway needs: the file of viewers, and host:port of both upstreams.

    Raises:
        VireoError: it doesn't start.
    """
    port = free_port_base()
    command = [sys.executable, "-m", bare.__name__, port, release, role, *upstreams]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = folder / f"bare-{role}.log"
    with running([*map(str, command)], log, partial(_listens, port), environment) as pid:
        yield f"127.0.0.1:{port}", pid


def write_viewers_of(questions: Sequence[Question], path: Path) -> Path:
    """Write the features of the questions' viewers for bare gateways; return the file."""
    viewers: dict[str, viewer_pb2.ViewerFeatures] = {}
    for question in questions:
        asked = candidate_pb2.RetrieveCandidatesRequest.FromString(question.candidates)
        asked.viewer.ClearField("asked_at")
        viewers[question.viewer_id] = asked.viewer
    bare.write_viewers(path, viewers)
    return path


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
