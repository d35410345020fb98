"""The candidate pod's process: `python -m vireo.server.candidate --port 8120`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import
if __name__ == "__main__":
    # A gateway on the same machine must stay able to refuse calls. Before the imports, which take
    # seconds: pods that start would take the cores from those that serve.
    os.nice(10)

from vireo.server.candidate.service import CandidateSettings, candidate_pod
from vireo.server.pod.pod import run_pod

if __name__ == "__main__":
    run_pod(CandidateSettings, candidate_pod)
