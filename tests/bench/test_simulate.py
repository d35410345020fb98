"""The simulated world, what is made of its figures, and a night of it on a real stack."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.rows import Plan
from bench.simulate import Nights, compared, simulate
from bench.simulated_world import BIASED, NEUTRAL, SimulatedWorld, WorldSettings
from vireo.server.home import Home

_PAGE = [f"w{number}" for number in range(10)]


def _plays(settings: WorldSettings, page: list[str], days: range) -> np.ndarray:
    """Return how often each position of the same page was played, by all viewers on some days."""
    world = SimulatedWorld(settings, 1, days=20)
    played = [world.plays(viewer, page, day) for day in days for viewer in world.viewer_ids]
    return np.asarray(np.sum(played, axis=0))


def test_the_same_page_is_answered_alike_in_the_same_world() -> None:
    one, other = (SimulatedWorld(BIASED, 1, days=3) for _ in range(2))
    assert [one.plays(each, _PAGE, 1) for each in one.viewer_ids] == [
        other.plays(each, _PAGE, 1) for each in one.viewer_ids
    ]


def test_a_video_is_played_more_at_the_top_of_a_page() -> None:
    top, bottom = (_plays(BIASED, page, range(1, 2)) for page in (_PAGE, _PAGE[::-1]))
    assert np.all(top[:3] > bottom[::-1][:3])
    top, bottom = (_plays(NEUTRAL, page, range(1, 2)) for page in (_PAGE, _PAGE[::-1]))
    assert np.array_equal(top, bottom[::-1])


def test_what_was_passed_over_is_played_less() -> None:
    first, later = (_plays(BIASED, _PAGE, days).sum() for days in (range(1, 2), range(1, 5)))
    assert later < 3 * first
    first, later = (_plays(NEUTRAL, _PAGE, days).sum() for days in (range(1, 2), range(1, 5)))
    assert later > 3.6 * first


def test_the_first_watches_are_of_videos_that_were_published_by_then(tmp_path: Path) -> None:
    world = SimulatedWorld(BIASED, 1, days=7)
    videos, interactions = world.write(tmp_path)
    with videos.open() as file:
        published = {row["video_id"]: row["published"] for row in csv.DictReader(file)}
    with interactions.open() as file:
        watched = Counter(row["video_id"] for row in csv.DictReader(file))
    assert len(published) == BIASED.videos
    assert watched.keys() <= published.keys()
    assert watched.total() > 20 * BIASED.viewers
    assert [each.video_id for each in world.published(2)] == [f"w{n}" for n in range(615, 630)]


def test_systems_are_compared_by_viewers_who_met_both() -> None:
    plays, impressions = np.arange(1.0, 101.0), np.full(100, 200.0)
    one, other = Nights(1.2 * plays, impressions), Nights(plays, impressions)
    assert compared([(one, other)]) == pytest.approx((1.2, 1.2, 1.2))
    ratio, low, high = compared([(one, Nights(plays[::-1].copy(), impressions))])
    assert ratio == pytest.approx(1.2)
    assert low < 1.1 < 1.3 < high


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_night_goes_from_visits_to_a_release_of_what_was_shown(tmp_path: Path) -> None:
    plan = Plan(timed=False)
    rows = {row.measure: row for row in simulate(Home(tmp_path), "biased", plan, Console())}
    [ratio] = [row for name, row in rows.items() if "over training on watches alone" in name]
    assert ratio.figure > 0
    assert ratio.spread is not None
    assert rows["biased world: the longest night, s"].figure > 0
