"""What there is to ask of a deployment, on this machine or elsewhere, all at once."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.ops.doctor.facts import Clock, Facts, Fault, Unasked
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


_CONNECT_SECONDS = 1.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WORDS: dict[Fault, str] = {
    "": "it answers",
    "refused": "nothing listens there",
    "unreachable": "no packet comes back",
    "silent": "it accepts the connection and doesn't answer",
}
MAX_BYTES = 64 << 20
"""Bytes of a response beyond which the rest is left."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy that variables may name: it is for what lies beyond the deployment."""


@dataclass(frozen=True)
class Response:
    """An HTTP response, whatever its status."""

    status: int
    body: str
    clock: Clock | None
    """The server's clock by its Date header; None without one."""


class UnansweredError(Exception):
    """A request without a response."""

    def __init__(self, fault: Fault, problem: str = "") -> None:
        """Name the fault; by default `problem` says the same in words."""
        super().__init__(problem or _WORDS.get(fault, fault))
        self.fault = fault


def words(fault: Fault) -> str:
    """Return a fault in words."""
    return _WORDS.get(fault, fault)


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port", IPv6 in brackets; raise ValueError if it is none."""
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(f"{address!r} isn't host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str | None) -> bool:
    """Return whether a host's name or address is this machine's."""
    return host in _LOOPBACK


def reach(address: str) -> Fault:
    """Return what a connection to host:port meets; empty if it is accepted."""
    try:
        with socket.create_connection(split(address), _CONNECT_SECONDS):
            return ""
    except ConnectionRefusedError:
        return "refused"
    except OSError:  # also a name that isn't known, and a timeout
        return "unreachable"


def call_fault(error: Any, target: str) -> tuple[Fault, str]:
    """Return how a gRPC call to host:port failed, and that in words."""
    if fault := reach(target):
        return fault, words(fault)
    silent = error.code().name == "DEADLINE_EXCEEDED"
    return ("silent" if silent else "failed"), f"{error.code().name}: {error.details()}"


def get(url: str, seconds: float) -> Response:
    """Return the response of an HTTP server.

    Raises:
        UnansweredError: there is none.
    """
    began = time.time()
    try:
        with _DIRECT.open(url, timeout=seconds) as page:
            body, status, headers = page.read(MAX_BYTES), page.status, page.headers
    except urllib.error.HTTPError as error:
        body, status, headers = error.read(MAX_BYTES), error.code, error.headers
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnansweredError(*_fault(error)) from error
    clock = _clock(url, headers.get("Date"), began, time.time())
    return Response(status, body.decode(errors="replace"), clock)


def _fault(error: Exception) -> tuple[Fault, str]:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ConnectionRefusedError):
        return "refused", ""
    if isinstance(reason, TimeoutError):
        # urllib wraps what happens until the request is sent, and nothing later.
        return ("unreachable" if isinstance(error, urllib.error.URLError) else "silent"), ""
    if isinstance(reason, socket.gaierror):
        return "unreachable", "the host's name isn't known"
    return "failed", str(reason) or type(reason).__name__


def _clock(source: str, date: str | None, began: float, ended: float) -> Clock | None:
    """Return a server's clock; its Date has whole seconds, and was written during the request."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    ours = (began + ended) / 2
    return Clock(source, theirs + 0.5 - ours, 0.5 + (ended - began) / 2)
