"""What there is to ask of a deployment, on this machine or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vireo.ops.doctor.facts import Facts, Unasked

if TYPE_CHECKING:
    from vireo.ops.cli.edge import Edge
    from vireo.ops.stack.state import StackState
    from vireo.server.event_log.settings import EventLogSettings
    from vireo.server.releases.s3 import S3Settings
    from vireo.server.rpc.tls import TlsFiles

WINDOW_SECONDS = 2.0
"""Seconds between the two readings of counters."""
ANSWER_SECONDS = 2.0
"""Maximum seconds to wait for one answer."""


@dataclass(frozen=True)
class Deployment:
    """Where its parts are; those that are left out are reported as not asked."""

    edge: Edge | None = None
    state: StackState | None = None
    """The stack that runs on this machine; None for a deployment elsewhere."""
    control: str = ""
    """host:port of the control plane."""
    tls: TlsFiles | None = None
    """Files with which the operator calls processes that ask for certificates."""
    envoy: str = ""
    """host:port of Envoy's admin interface."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """URL of each process's page of metrics, by the process's name."""
    prometheus: str = ""
    """URL of a Prometheus that reads these pages."""
    installation: str = ""
    """Label of this deployment's targets there; needed if it has those of several."""
    s3: S3Settings | None = None
    log: EventLogSettings | None = None
    log_health: str = ""
    """URL at which the log's server says whether it can store; empty if there is none."""
    log_folder: Path | None = None
    """Where the log's server on this machine stores events."""
    features: Path | None = None
    """Folder of the feature repositories, one for each data set."""
    certificates: tuple[Path, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders that processes on this machine write to, by what lies there."""
    channel: str = "production"
    window: float = WINDOW_SECONDS
    answer: float = ANSWER_SECONDS


@dataclass(frozen=True)
class Probe:
    """One thing to find out."""

    name: str
    ask: Callable[[], Facts]
    """Blocks for seconds at most. What a part answers, it returns; a VireoError says why it
    couldn't be asked."""

    @staticmethod
    def unnamed(name: str, advice: str) -> Probe:
        """Return a probe of a part that isn't named: it asks nothing, and says how to name it."""
        return Probe(name, lambda: Facts(unasked=(Unasked(name, advice),)))
