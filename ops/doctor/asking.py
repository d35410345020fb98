"""Runs probes at once, and waits for none of them beyond a deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from vireo.ops.doctor.deployment import Probe
from vireo.ops.doctor.facts import Facts, Unasked
from vireo.server.errors import VireoError


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
