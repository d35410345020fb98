"""What is to be run where a pod has several worker processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn


@dataclass(frozen=True)
class WorkersPlan:
    """What a supervisor runs."""

    command: Sequence[str]
    """Of one worker process."""
    workers: int
    host: str
    port: int
    """The pod's; 0 takes a free one."""
    metrics_host: str
    metrics_port: int
    """The supervisor's; 0 for none."""
    pod: str
    """Name of the pod in logs."""
    log_level: str

    def written(self) -> str:
        """The plan as `read` takes it."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> WorkersPlan:
        """What `written` gave."""
        return WorkersPlan(**json.loads(text))


def supervise(plan: WorkersPlan) -> NoReturn:
    """Turns this process into the supervisor of worker processes; its id stays."""
    sys.stderr.flush()
    command = [sys.executable, "-m", "server.rpc.worker_supervisor", plan.written()]
    os.execv(command[0], command)  # noqa: S606
