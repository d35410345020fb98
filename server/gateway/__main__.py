"""The gateway's process: `python -m vireo.server.gateway --port 8140`."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import

from vireo.server.gateway.service import gateway_pod
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.pod.pod import serve_pod
from vireo.server.rpc.server import run_process
from vireo.server.rpc.settings import load_settings


async def main() -> None:
    """Serve until stopped."""
    settings = load_settings(GatewaySettings, sys.argv[1:])
    await serve_pod(gateway_pod(settings), settings)


if __name__ == "__main__":
    run_process(main)
