"""What there is to ask of a deployment, on this machine or elsewhere, all at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vireo.ops.doctor.facts import Facts, Unasked
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.edge import Edge
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


def ask_all(probes: Sequence[Probe], seconds: float) -> Facts:
    """Return what the probes find out within a time; of the others, that they found nothing.

    Each has a thread of its own, which ends with this process at the latest: a file system that
    hangs can't be interrupted.
    """
    answers: queue.SimpleQueue[tuple[int, Facts]] = queue.SimpleQueue()

    def ask(number: int, probe: Probe) -> None:
        answers.put((number, _asked(probe)))

    for number, probe in enumerate(probes):
        threading.Thread(target=ask, args=(number, probe), name=probe.name, daemon=True).start()
    until, found = time.monotonic() + seconds, dict[int, Facts]()
    while len(found) < len(probes):
        try:
            number, facts = answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        found[number] = facts
    late = f"found nothing out within {seconds:g} s"
    return Facts.merged(
        found.get(number, Facts(unasked=(Unasked(probe.name, late),)))
        for number, probe in enumerate(probes)
    )


def _asked(probe: Probe) -> Facts:
    try:
        return probe.ask()
    except VireoError as error:
        why = str(error)
    except ModuleNotFoundError as error:
        why = f"the package {error.name} isn't installed here"
    except Exception as error:  # noqa: BLE001
        # Declared policy: what breaks one probe is reported and hides none of the other findings.
        why = f"{type(error).__name__}: {error}"
    return Facts(unasked=(Unasked(probe.name, why),))
