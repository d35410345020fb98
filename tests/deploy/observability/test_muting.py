"""What the real Alertmanager mutes."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.builders.alert_rules import rules
from tests.builders.waiting import wait_until
from vireo.ops.stack.observe import FOLDER

pytestmark = pytest.mark.integration

_SEVERITIES = ("watchdog", "ticket", "page")
_TOLD = ("alertname", "severity", "installation")


class Alert(NamedTuple):
    """What tells alerts apart here."""

    name: str
    severity: str
    installation: str


class Alertmanager:
    """A running one that takes alerts, and says which it mutes."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v2/alerts"

    def fire(self, *alerts: Alert) -> None:
        """Have these fire."""
        body = [{"labels": dict(zip(_TOLD, each, strict=True))} for each in alerts]
        headers = {"content-type": "application/json"}
        urllib.request.urlopen(
            urllib.request.Request(self._url, json.dumps(body).encode(), headers), timeout=10
        ).close()

    def muted(self) -> dict[Alert, set[Alert]]:
        """Return all alerts, each with those that mute it."""
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            found: list[Any] = json.load(answer)
        named = {each["fingerprint"]: Alert(*(each["labels"][n] for n in _TOLD)) for each in found}
        return {
            named[each["fingerprint"]]: {named[by] for by in each["status"]["inhibitedBy"]}
            for each in found
        }

    def answers(self) -> bool:
        """Return whether it has started."""
        try:
            self.muted()
        except urllib.error.URLError:
            return False
        return True


@pytest.fixture
def alertmanager(tmp_path: Path, unused_tcp_port: int) -> Iterator[Alertmanager]:
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("Alertmanager isn't installed: make prometheus")
    command = [
        program,
        f"--config.file={FOLDER / 'alertmanager.yaml'}",
        f"--storage.path={tmp_path}",
        f"--web.listen-address=127.0.0.1:{unused_tcp_port}",
        "--cluster.listen-address=",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            found = Alertmanager(unused_tcp_port)
            wait_until(found.answers)
            yield found
        finally:
            process.terminate()


def test_an_alert_is_muted_by_one_as_severe_in_its_own_installation_alone(
    alertmanager: Alertmanager,
) -> None:
    all_alerts = {(each["alert"], each["labels"]["severity"]) for each in rules("alert")}
    alertmanager.fire(*(Alert(*each, "one") for each in all_alerts))
    # The other installation has nothing that mutes.
    pages = {name for name, severity in all_alerts if severity == "page"}
    symptoms = {
        each
        for each in all_alerts
        if each[0] not in ("VireoLogDown", "VireoOnlineStoreDown")
        and not (each[1] == "page" and (each[0], "ticket") in all_alerts)
    }
    alertmanager.fire(*(Alert(*each, "other") for each in symptoms))
    behind = Alert("VireoConsumerBehind", "page", "one")
    wait_until(lambda: bool(alertmanager.muted().get(behind)))
    muted = alertmanager.muted()
    assert len(muted) == len(all_alerts) + len(symptoms)
    for alert, by in muted.items():
        for source in by:
            assert source.installation == alert.installation == "one"
            assert _SEVERITIES.index(source.severity) >= _SEVERITIES.index(alert.severity)
    # Objectives page, whatever fails, and so does what is no symptom of another page.
    silent = {each.name for each, by in muted.items() if by and each.severity == "page"}
    assert silent == {"VireoConsumerBehind", "VireoNoFeatures"} <= pages
