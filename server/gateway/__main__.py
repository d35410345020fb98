"""The gateway's process: `python -m vireo.server.gateway --port 8140`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import

from vireo.server.gateway.service import gateway_pod
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.pod.pod import run_pod

if __name__ == "__main__":
    run_pod(GatewaySettings, gateway_pod)
