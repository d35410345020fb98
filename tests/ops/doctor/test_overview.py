"""What `vireo top` makes of pages of metrics."""

from __future__ import annotations

import pytest

from vireo.ops.cli.top import overview, quantile
from vireo.ops.doctor.facts import Page
from vireo.ops.doctor.probes.metrics import parse

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
    pages = [page("gateway-1", ok=60, fast=40), page("gateway-2", ok=40, fast=10)]
    found = {
        share: quantile(pages, "vireo_rpc_seconds", share, method=_RECOMMEND)
        for share in (0.25, 0.75, 1.0)
    }
    assert found == {0.25: 0.005, 0.75: pytest.approx(0.055), 1.0: pytest.approx(0.1)}


def test_without_calls_there_is_no_quantile() -> None:
    assert quantile([page("gateway-1")], "vireo_rpc_seconds", 0.5) is None
    assert quantile([], "vireo_rpc_seconds", 0.5) is None


def test_a_process_that_restarted_counts_from_zero() -> None:
    again = Page("gateway-1", page("g", ok=0).before, page("g", ok=5000).now, 1.0)
    assert again.increase("vireo_rpcs_total", code="OK") == 1000


def test_a_page_that_could_not_be_read_is_a_row_that_says_why() -> None:
    [row] = overview([Page("10.0.0.1:9", fault="refused", problem="gone")], {})["processes"]
    assert (row["state"], row["calls"]) == ("gone", None)
