"""Rates of what was shown, by dimension, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders.shown import after, event, files_of, slate, write_archive
from vireo.server.signals import NEW, TRENDING
from vireo.training.data.shown import shown_videos
from vireo.training.evaluation.traffic import (
    Group,
    Rate,
    Traffic,
    ratio_of_sums,
    traffic,
    write_metrics,
)

Row = Mapping[str, Any]


def report_on(folder: Path, slates: Sequence[Row], events: Sequence[Row]) -> Traffic:
    write_archive(folder, slates, events)
    return traffic(shown_videos(files_of(folder, "slates"), files_of(folder, "events")))


def groups(report: Traffic, dimension: str) -> dict[str, Group]:
    return {group.value: group for group in report.by[dimension]}


def seen(viewer: str, videos: str, request: str) -> list[Row]:
    return [event("impression", viewer, video, 1, request) for video in videos.split()]


@pytest.fixture
def report(tmp_path: Path) -> Traffic:
    slates = [
        slate("a", "1", "x y z"),
        slate("b", "2", "x y", 10, surface="up_next", arm="canary", release_id="r-2"),
    ]
    events = [
        *seen("1", "x y", "a"),
        *seen("2", "x y", "b"),
        event("play", "1", "x", 5, "a", watched_seconds=30.0),
        event("play", "1", "z", 5, "a", watched_seconds=50.0),
        event("like", "1", "x", 6, "a"),
        event("hide", "2", "y", 12, "b"),
    ]
    return report_on(tmp_path, slates, events)


def test_rates_are_of_impressions_and_of_what_was_seen(report: Traffic) -> None:
    total = report.total
    assert (total.viewers, total.impressions, total.videos_shown, total.videos_played) == (
        (2, 4, 3, 2)
    )
    assert {name: rate.value for name, rate in total.rates.items()} == {
        "plays_per_impression": 0.25,
        "watch_seconds_per_impression": 7.5,
        "likes_per_1000_impressions": 250,
        "hides_per_1000_impressions": 250,
    }
    assert (report.slates, report.first, report.last) == (2, after(0), after(10))
    assert report.impressions_reported
    assert report.plays_without_impression == 1


def test_each_dimension_has_its_values(report: Traffic) -> None:
    names = {dimension: [*groups(report, dimension)] for dimension in report.by}
    assert names == {
        "surface": ["home", "up_next"],
        "position": ["1", "2", "3"],
        "source": ["two_tower"],
        "release": ["r-1", "r-2"],
        "arm": ["canary", "production"],
        "placement": ["score"],
    }
    assert groups(report, "position")["1"].rates["plays_per_impression"].value == 0.5
    assert groups(report, "position")["3"].rates == {}
    assert groups(report, "surface")["up_next"].rates["hides_per_1000_impressions"].value == 500


def test_positions_beyond_20_count_together(tmp_path: Path) -> None:
    slates = [slate("a", "1", "x y"), slate("b", "1", "x y z", 9, shown_before=19)]
    found = groups(report_on(tmp_path, slates, []), "position")
    assert {name: group.impressions for name, group in found.items()} == {
        "1": 1,
        "2": 1,
        "20": 1,
        "21+": 2,
    }


def test_a_video_counts_for_each_of_its_sources_and_a_slate_of_none_as_fallback(
    tmp_path: Path,
) -> None:
    both = TRENDING.bit | NEW.bit
    slates = [
        slate("a", "1", "x y z", item_sources=[both, NEW.bit, 0]),
        slate("b", "1", "x y", 9, item_sources=[0, 0], placements=[], propensities=[]),
    ]
    report = report_on(tmp_path, slates, [])
    found = {name: group.impressions for name, group in groups(report, "source").items()}
    assert found == {"trending": 1, "new": 2, "popular fallback": 2, "none": 1}
    found = {name: group.impressions for name, group in groups(report, "placement").items()}
    assert found == {"score": 3, "not ranked": 2}


def test_a_report_says_if_no_impressions_are_reported(tmp_path: Path) -> None:
    report = report_on(tmp_path, [slate("a", "1", "x y")], [event("play", "1", "x")])
    assert not report.impressions_reported
    assert report.total.impressions == 2
    assert report.plays_without_impression == 0
    # The one viewer says nothing of others.
    assert report.total.rates["plays_per_impression"] == Rate(0.5, None, None)


def test_intervals_are_those_of_a_bootstrap_of_viewers() -> None:
    random = np.random.default_rng(0)
    shown = random.geometric(0.1, 3_000)
    # Viewers differ: videos as independent of each other would have half the interval.
    plays = random.binomial(shown, random.beta(0.5, 2, 3_000)).astype(np.float64)
    drawn = random.integers(0, 3_000, (2_000, 3_000))
    low, high = np.percentile(plays[drawn].sum(1) / shown[drawn].sum(1), [2.5, 97.5])
    rate = ratio_of_sums(plays, shown)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.value == pytest.approx(plays.sum() / shown.sum())
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    naive = 2 * 1.96 * np.sqrt(rate.value * (1 - rate.value) / shown.sum())
    assert rate.high - rate.low > 2 * naive
    # Viewers without an impression say nothing.
    padded = ratio_of_sums(np.append(plays, [0, 0]), np.append(shown, [0, 0]))
    assert padded == rate


def test_a_group_has_the_interval_of_its_own_viewers(tmp_path: Path) -> None:
    slates = [slate(f"a{n}", str(n), "x y") for n in range(4)]
    slates += [slate("b", "9", "x y", surface="up_next")]
    plays = [event("play", "0", "x"), event("play", "0", "y"), event("play", "1", "x")]
    home = groups(report_on(tmp_path, slates, plays), "surface")["home"]
    rate = home.rates["plays_per_impression"]
    assert rate == ratio_of_sums(np.array([2.0, 1, 0, 0]), np.array([2, 2, 2, 2]))
    assert rate.low == 0
    assert rate.high == pytest.approx(0.375 + 1.959964 * np.sqrt(4 / 3 * 2.75) / 8)


def test_metrics_are_the_report_in_the_text_format(report: Traffic, tmp_path: Path) -> None:
    file = tmp_path / "traffic.prom"
    file.write_text("old")
    write_metrics(report, file)
    samples = {
        (sample.name, sample.labels["dimension"], sample.labels["value"]): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }
    assert samples["vireo_traffic_impressions", "all", "all"] == 4
    assert samples["vireo_traffic_plays_per_impression", "position", "1"] == 0.5
    assert samples["vireo_traffic_videos_shown", "arm", "canary"] == 2
    high = report.total.rates["likes_per_1000_impressions"].high
    assert samples["vireo_traffic_likes_per_1000_impressions_high", "all", "all"] == high
    # Of one viewer there is no interval, of nothing seen no rate.
    assert ("vireo_traffic_plays_per_impression_low", "arm", "canary") not in samples
    assert ("vireo_traffic_plays_per_impression", "position", "3") not in samples
    assert [each.name for each in tmp_path.glob("*.prom*")] == ["traffic.prom"]
