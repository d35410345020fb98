"""`vireo top`: what it makes of pages of metrics, and shows in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from tests.builders.commands import vireo
from tests.builders.http_page import served_metrics
from vireo.ops.cli.top import overview, quantile
from vireo.ops.doctor.facts import Facts, Page
from vireo.ops.doctor.probes.metrics import parse
from vireo.server.errors import VireoError

_RECOMMEND = "/vireo.v1.RecommendationService/Recommend"
_PAGE = """
# TYPE vireo_rpcs_total counter
vireo_rpcs_total{{method="{recommend}",code="OK"}} {ok}
vireo_rpcs_total{{method="{recommend}",code="INTERNAL"}} {internal}
# TYPE vireo_rpcs_shed_total counter
vireo_rpcs_shed_total{{method="{recommend}",reason="queue"}} {shed}
# TYPE vireo_degradations_total counter
vireo_degradations_total{{kind="ranking_skipped"}} {skipped}
vireo_degradations_total{{kind="features_stale"}} 3
# TYPE vireo_rpc_seconds histogram
vireo_rpc_seconds_bucket{{method="{recommend}",le="0.01"}} {fast}
vireo_rpc_seconds_bucket{{method="{recommend}",le="0.1"}} {ok}
vireo_rpc_seconds_bucket{{method="{recommend}",le="+Inf"}} {ok}
# TYPE vireo_release_info gauge
vireo_release_info{{release="r1",channel="production",origin="s3",role="serving"}} 1
vireo_release_info{{release="r0",channel="production",origin="s3",role="previous"}} 1
"""


def page(source: str, **grown: int) -> Page:
    """A gateway's page whose counts grew within 2 s."""
    names = ("ok", "internal", "shed", "skipped", "fast")
    start = dict.fromkeys(names, 1000)
    now = {name: start[name] + grown.get(name, 0) for name in names}
    before, after = (parse(_PAGE.format(recommend=_RECOMMEND, **each)) for each in (start, now))
    return Page(source, after, before, 2.0)


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


def test_rates_are_those_of_the_window() -> None:
    pages = [page("gateway-1", ok=100, fast=50, internal=4, skipped=20), page("gateway-2", shed=6)]
    seen = overview(pages, {"gateway-1": "healthy", "gateway-2": "unhealthy", "envoy": "healthy"})
    assert (seen["slates"], seen["failures"], seen["shed"]) == (52.0, 2.0, 3.0)
    assert seen["degradations"] == {"ranking_skipped": 10.0}
    assert seen["releases"] == {"r1": 2}
    rows = {row["name"]: row for row in seen["processes"]}
    assert [*rows] == ["gateway-1", "gateway-2", "envoy"]
    assert rows["gateway-2"]["state"] == "unhealthy"
    assert rows["gateway-1"]["p50"] == pytest.approx(0.01)


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    pages = (page("gateway-1", ok=60, fast=40), page("gateway-2", ok=40, fast=10))
    found = {
        share: quantile(Facts(pages=pages), "vireo_rpc_seconds", share, method=_RECOMMEND)
        for share in (0.25, 0.75, 1.0)
    }
    assert found == {0.25: 0.005, 0.75: pytest.approx(0.055), 1.0: pytest.approx(0.1)}


def test_without_calls_there_is_no_quantile() -> None:
    idle = Facts(pages=(page("gateway-1"),))
    assert quantile(idle, "vireo_rpc_seconds", 0.5) is None
    assert quantile(Facts(), "vireo_rpc_seconds", 0.5) is None


def test_a_process_that_restarted_counts_from_zero() -> None:
    again = Page("gateway-1", page("g", ok=0).before, page("g", ok=5000).now, 1.0)
    assert again.increase("vireo_rpcs_total", code="OK") == 1000


def test_a_page_that_could_not_be_read_is_a_row_that_says_why() -> None:
    [row] = overview([Page("10.0.0.1:9", fault="refused", problem="gone")], {})["processes"]
    assert (row["state"], row["calls"]) == ("gone", None)
