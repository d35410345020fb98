"""`vireo doctor` in the terminal: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from rich.console import Console
from typer.testing import Result

from tests.builders.commands import vireo as run
from tests.builders.http_page import served_metrics
from vireo.ops.cli.doctor import print_findings
from vireo.ops.doctor.conditions import Finding
from vireo.ops.doctor.facts import Facts, Part, Unasked
from vireo.server.errors import NoAnswerError

pytestmark = pytest.mark.usefixtures("logs_of_a_command")


@pytest.fixture
def vireo(tmp_path: Path) -> Callable[..., Result]:
    own = {"VIREO_HOME": str(tmp_path), "VIREO_FEATURES": ""}
    return partial(run, "doctor", "--seconds", "0.2", **own)


@pytest.fixture
def closed(closed_port: int) -> str:
    """An address at which nothing listens."""
    return f"127.0.0.1:{closed_port}"


def test_without_a_stack_it_says_what_to_name(vireo: Callable[..., Result]) -> None:
    problem = vireo().exception
    assert isinstance(problem, NoAnswerError)
    assert "--target, --control and --metrics" in str(problem)
    document = json.loads(vireo("--json").stdout)
    assert (document["healthy"], document["findings"]) == (None, [])


def test_an_edge_that_is_down_comes_first_and_what_was_not_asked_names_its_option(
    vireo: Callable[..., Result], closed: str
) -> None:
    result = vireo("--target", closed, "--json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    first = document["findings"][0]
    assert (first["cause"], first["level"]) == ("edge-down", "failing")
    assert first["runbook"] == "docs/runbooks/VireoEdgeDown.md"
    assert {each["what"] for each in document["unasked"]} >= {"the control plane", "Envoy", "S3"}
    output = vireo("--target", closed).stdout
    assert "not asked:" in output
    for option in ("--control", "--envoy", "--metrics", "VIREO_S3_ENDPOINT", "VIREO_NATS_URL"):
        assert option in output


def test_a_deployment_that_is_well_ends_with_0(vireo: Callable[..., Result]) -> None:
    registry = CollectorRegistry()
    Gauge("vireo_features_behind", "Partitions.", registry=registry)
    with served_metrics(registry) as url:
        result = vireo("--metrics", f"gateway-1={url}")
    assert result.exit_code == 0, result.output
    assert "healthy: 1 pages of metrics" in result.stdout


def test_it_ends_with_3_if_nothing_could_be_asked(
    vireo: Callable[..., Result], closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_PROMETHEUS_URL", f"http://{closed}")
    result = vireo()
    assert result.exit_code == 3
    assert "nothing could be asked" in result.stdout
    assert f"Prometheus at http://{closed}: nothing listens there" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "nowhere"],
        ["--control", "localhost:http"],
        ["--metrics", "pod.example:9000"],
        ["--prometheus", "prometheus.example"],
        ["--target", "h:1", "--certificate", "a.crt"],
        ["--seconds", "0"],
    ],
)
def test_mistakes_are_explained(vireo: Callable[..., Result], arguments: list[str]) -> None:
    result = vireo(*arguments)
    assert result.exit_code == 2 or getattr(result.exception, "exit_code", 0) == 2
    assert "Traceback" not in result.output


def test_findings_are_numbered_and_a_terminal_obeys_nothing_in_them() -> None:
    finding = Finding(
        "log-down",
        "failing",
        "The log is away",
        ("it says \x1b[31mno",),
        "Start",
        "VireoLogDown",
    )
    follows = Finding(
        "features-behind", "failing", "St\nale", ("[late]",), "Wait", follows_from="log-down"
    )
    facts = Facts(parts=(Part("log", "here", "refused", "gone"),), unasked=(Unasked("S3", "why"),))
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        print_findings(facts, [finding, follows], console)
    assert captured.get().splitlines() == [
        "1. failing: The log is away",
        "   - it says \N{REPLACEMENT CHARACTER}[31mno",
        "   do: Start",
        "   see: docs/runbooks/VireoLogDown.md",
        "2. failing: St ale",
        "   follows from: log-down",
        "   - [late]",
        "   do: Wait",
        "not asked:",
        "  S3: why",
    ]
