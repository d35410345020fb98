"""The process of all services: `python -m vireo.server.slate --port 8150`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import

from vireo.server.pod.pod import run_pod
from vireo.server.slate.service import SlateSettings, slate_pod

if __name__ == "__main__":
    run_pod(SlateSettings, slate_pod)
