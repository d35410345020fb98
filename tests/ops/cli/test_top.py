"""`vireo top` in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from tests.builders.commands import vireo
from tests.builders.http_page import served_metrics
from vireo.server.errors import VireoError

_RECOMMEND = "/vireo.v1.RecommendationService/Recommend"


@pytest.fixture
def url() -> Iterator[str]:
    """A gateway's page, whose counter grows by 10 whenever it is read."""
    registry = CollectorRegistry()
    calls = Counter("vireo_rpcs", "Calls.", ["method", "code"], registry=registry)
    Counter("vireo_degradations", "Kinds.", ["kind"], registry=registry).labels("mixed_releases")
    info = Gauge("vireo_release_info", "Releases.", ["release", "role"], registry=registry)
    info.labels("r1", "serving").set(1)
    reads = Gauge("vireo_reads", "Reads.", registry=registry)
    reads.set_function(lambda: calls.labels(_RECOMMEND, "OK").inc(10) or 0)  # type: ignore[func-returns-value]
    with served_metrics(registry) as url:
        yield url


def test_one_table_shows_rates_and_releases(url: str) -> None:
    arguments = ["--once", "--seconds", "0.5", "--metrics", f"gateway-1={url}"]
    result = vireo("top", *arguments)
    assert result.exit_code == 0, result.output
    assert "degraded: none" in result.stdout
    assert "releases: r1 (1)" in result.stdout
    [row] = [line for line in result.stdout.splitlines() if line.startswith("gateway-1")]
    assert "answers" in row


def test_json_has_rates_and_no_nan(url: str) -> None:
    arguments = ["--json", "--seconds", "0.5", "--metrics", f"gateway-1={url}"]
    document = json.loads(vireo("top", *arguments).stdout)
    [process] = document["processes"]
    assert 0 < document["slates"] <= 20  # 10 calls within at least half a second
    assert process["calls"] == document["slates"]
    assert (document["p99"], process["p99"]) == (None, None)


def test_a_prometheus_that_does_not_answer_is_no_empty_table(closed_port: int) -> None:
    where = f"http://127.0.0.1:{closed_port}"
    result = vireo("top", "--once", "--seconds", "0.5", VIREO_PROMETHEUS_URL=where)
    assert isinstance(result.exception, VireoError)
    assert str(result.exception).endswith("nothing listens there; is that its address?")


def test_without_a_stack_it_says_what_to_name(tmp_path: Path) -> None:
    result = vireo("top", "--once", VIREO_HOME=str(tmp_path))
    assert isinstance(result.exception, VireoError)
    assert "no stack runs on" in str(result.exception)
