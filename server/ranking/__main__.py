"""The ranking pod's process: `python -m vireo.server.ranking --port 8130`."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import

from vireo.server.pod.pod import PodSettings, serve_pod
from vireo.server.ranking.service import ranking_pod
from vireo.server.rpc.server import run_process
from vireo.server.rpc.settings import load_settings


async def main() -> None:
    """Serve until stopped."""
    settings = load_settings(PodSettings, sys.argv[1:])
    await serve_pod(ranking_pod(settings), settings)


if __name__ == "__main__":
    run_process(main)
