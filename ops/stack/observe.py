"""Prometheus and Alertmanager beside a stack, with the rules of `deploy/observability`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vireo.ops.stack.probes import ProcessSpec, http_probe
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
"""What is run, and what dashboards are imported from."""
_PROGRAMS = {
    "prometheus": ("prometheus",),
    # Debian's name for it, then its own.
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
_INSTALL = (
    "install both with `apt-get install prometheus prometheus-alertmanager`, or put them on the "
    "PATH, or start the stack without --observe"
)
_ENVIRONMENT = {"GOMAXPROCS": "1"}
"""An idle server of Go then wakes up fewer threads."""
_RETENTION = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=2GB")


def check_programs() -> None:
    """Raise VireoError, which says how to install it, if a program is missing."""
    for name in _PROGRAMS:
        _program(name)


def prometheus_url(settings: StackSettings) -> str:
    """Return Prometheus' URL; empty if the stack runs none."""
    return f"http://127.0.0.1:{settings.prometheus_port}" if settings.observe else ""


def alertmanager_url(settings: StackSettings) -> str:
    """Return Alertmanager's URL; empty if the stack runs none."""
    return f"http://127.0.0.1:{settings.alertmanager_port}" if settings.observe else ""


def observers(settings: StackSettings, observed: Iterable[ProcessSpec]) -> list[ProcessSpec]:
    """Write the configuration of Prometheus and Alertmanager; return their processes.

    Args:
        settings: the stack's.
        observed: the stack's processes; those that serve metrics are scraped.

    Raises:
        VireoError: a program is missing.
    """
    folder = settings.home_folder.root / "observe"
    write_targets(settings, observed)
    document: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    document["rule_files"] = [str(FOLDER / each) for each in document["rule_files"]]
    [alertmanager] = document["alerting"]["alertmanagers"]
    alertmanager["static_configs"] = [{"targets": [f"127.0.0.1:{settings.alertmanager_port}"]}]
    for job in document["scrape_configs"]:
        for files in job["file_sd_configs"]:
            files["files"] = [str(folder.absolute() / each) for each in files["files"]]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return [
        _server(
            "alertmanager",
            settings.alertmanager_port,
            f"--config.file={FOLDER / 'alertmanager.yaml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--cluster.listen-address=",  # it is alone
        ),
        _server(
            "prometheus",
            settings.prometheus_port,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            *_RETENTION,
            "--enable-feature=exemplar-storage",
        ),
    ]


def write_targets(settings: StackSettings, observed: Iterable[ProcessSpec]) -> None:
    """Write the targets of each job, which Prometheus reads again whenever they change."""
    folder = settings.home_folder.root / "observe" / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    for job, found in targets(settings, observed).items():
        (folder / f"{job}.json").write_text(json.dumps(found, indent=1) + "\n")


def targets(
    settings: StackSettings, observed: Iterable[ProcessSpec]
) -> Mapping[str, Sequence[Mapping[str, object]]]:
    """Return the targets of each job, in the form of Prometheus' file_sd."""
    vireo = []
    for spec in observed:
        if port := spec.environment.get("VIREO_METRICS_PORT"):
            labels = {"instance": spec.name, "component": spec.name.partition("-")[0]}
            if spec.pool:
                labels["pool"] = spec.pool
            vireo.append(_target(port, labels))
    edge = {"instance": "envoy", "component": "edge"}
    envoy = [_target(settings.admin_port, edge)] if settings.admin_port else []
    own = [_target(settings.prometheus_port, {"instance": "prometheus"})]
    return {"vireo": vireo, "envoy": envoy, "prometheus": own}


def _target(port: int | str, labels: Mapping[str, str]) -> Mapping[str, object]:
    return {"targets": [f"127.0.0.1:{port}"], "labels": labels}


def _server(name: str, port: int, *options: str) -> ProcessSpec:
    """Return a program's process with these options and those that both programs have."""
    return ProcessSpec(
        name=name,
        command=[
            _program(name),
            *options,
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        port=port,
        probe=http_probe(port, "/-/ready"),
        environment=_ENVIRONMENT,
    )


def _program(name: str) -> str:
    for program in _PROGRAMS[name]:
        if path := shutil.which(program):
            return path
    raise VireoError(
        f"--observe needs Prometheus and Alertmanager, and {name} is missing; {_INSTALL}"
    )
