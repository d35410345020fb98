"""Filters of a query hold in every source, and whatever fails; a page is full if it can be."""

from __future__ import annotations

import random
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders.attributes import DAY, labels_of, numbers_of
from tests.builders.catalogue import followed, removed, upserted
from tests.builders.cells import release_in_cells
from tests.builders.filters import condition, expression, random_expression
from tests.builders.releases import CREATORS
from tests.builders.retrieving import retrieve
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.filters.expression import MAX_TERMS, FilterExpression
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval import allowed, sources
from vireo.server.recommend.retrieval.allowed import Filters
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
)
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.signals import NEW, TRENDING

VIDEOS = 40
LABELS = {
    "creator": [f"creator-{each}" for each in range(CREATORS)],
    "language": ["de", "en", "fr"],
    "tag": ["cat", "dog", "fish"],
}
NUMBERS = {
    "age_rating": [0.0, 12.0, 18.0],
    "duration": [0.0, 600.0, 1800.0],
    "published": [1e9 + day * DAY for day in (0, 10, 30)],
}
CATS = expression(condition("tag", any_of=["cat"]))


def passing(asked: FilterExpression) -> set[int]:
    return {row for row in range(VIDEOS) if asked.holds(labels_of(row, CREATORS), numbers_of(row))}


@pytest.fixture(params=["exact", "listed", "listed by cell", "bits"])
def searched(
    request: pytest.FixtureRequest, release: CandidateRelease, monkeypatch: pytest.MonkeyPatch
) -> CandidateRelease:
    """A release that searches in one of the ways."""
    if request.param == "exact":
        return release
    if request.param == "listed by cell":
        monkeypatch.setattr(allowed, "MAX_LISTED", 1)
        monkeypatch.setattr(sources, "MAX_LOOKED_UP", 8)
    if request.param == "bits":
        monkeypatch.setattr(allowed, "MAX_LISTED", 0)
    return release_in_cells(release, cells=8, probes=1)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 1 << 32))
def test_as_many_candidates_as_a_filter_allows_and_no_other(
    searched: CandidateRelease, seed: int
) -> None:
    draw = random.Random(seed)
    _, asked = random_expression(draw, LABELS, NUMBERS)
    history, excluded = (draw.sample(range(VIDEOS), draw.choice([0, 1, 5, 20])) for _ in range(2))
    count = draw.choice([1, 5, 20, VIDEOS])
    query = CandidateQuery(viewer_of_rows(*history), count, searched.keys[excluded], filter=asked)

    found = CandidatePipeline(searched, fail_open=False).retrieve(query)

    may = passing(asked) - {*history} - {*excluded}
    assert set(found.rows.tolist()) <= may
    assert len(set(found.rows.tolist())) == len(found) == min(count, len(may))
    assert found.filtered
    assert found.filter_share == pytest.approx(len(passing(asked)) / VIDEOS)


@pytest.mark.parametrize("failing", ["two_tower", "popular", "co_watch", "ease", "fresh"])
@pytest.mark.parametrize("count", [5, VIDEOS])
def test_a_failed_source_lets_nothing_forbidden_in(
    searched: CandidateRelease, failing: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setitem(sources.PROPOSE, failing, fail)
    found = CandidatePipeline(searched).retrieve(
        CandidateQuery(viewer_of_rows(3, 4), count, filter=CATS)
    )
    may = passing(CATS) - {3, 4}
    assert failing in found.failures
    assert set(found.rows.tolist()) <= may
    assert len(found) == min(count, len(may))


def test_filters_are_kept_within_a_bound(release_folder: Path) -> None:
    table = AttributeTable.load(release_folder, VIDEOS)
    release = CandidateRelease.load(release_folder)
    filters = Filters(table, release.index, 2 * 1600)  # a filter has 5 bytes of bits, and objects
    one, two, three = (expression(condition("tag", any_of=[tag])) for tag in LABELS["tag"])
    kept = filters.apply(one)
    filters.apply(two)
    assert filters.apply(one) is kept
    filters.apply(three)
    assert filters.apply(one) is kept, "the other was used longer ago"
    none = Filters(table, release.index, 0)
    in_use = none.apply(one)
    assert none.apply(one) is in_use
    gone = weakref.ref(in_use)
    del in_use
    assert gone() is None


def test_filters_take_no_more_memory_than_their_bound(release_folder: Path) -> None:
    table = AttributeTable.load(release_folder, VIDEOS)
    index = CandidateRelease.load(release_folder).index
    bound = 1 << 18
    filters = Filters(table, index, bound)

    def fill(count: int) -> None:
        for number in range(count):
            values = [f"{number} {place} {'x' * 100}" for place in range(MAX_TERMS)]
            filters.apply(expression(condition("tag", any_of=values)))

    fill(1)
    tracemalloc.start()
    try:
        fill(500)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 * bound < filters.nbytes <= bound
    assert held < 1.2 * bound


def test_a_filter_counts_what_changed_once_it_has_changed(release_folder: Path) -> None:
    live = followed()
    release = CandidateRelease.load(release_folder, live=live)
    table = AttributeTable.load(release_folder, VIDEOS)
    filters = Filters(table, release.index, 1 << 20, release.live)
    filters.apply(CATS)
    before = filters.nbytes
    assert 0 < before < 3000
    assert release.live is not None
    live.overlay.take([upserted(1 + row, f"video-{row}", tags=["cat"]) for row in range(5000)])
    release.live.update(live.overlay.newly_touched())
    filters.apply(CATS)
    assert filters.nbytes == before + 5000 + 8 * (VIDEOS - len(passing(CATS)))
    small = Filters(table, release.index, 3000, release.live)
    small.apply(CATS)
    assert small.nbytes == 0


GERMAN = expression(condition("language", any_of=["de"]))


def german(*labels: str) -> list[dict[str, Any]]:
    return [{"name": "language", "labels": labels or ["de"]}]


def test_new_videos_are_judged_by_their_own_attributes(release_folder: Path) -> None:
    live = followed(
        *(
            upserted(
                1 + each, f"new-{each}", tags=["cat"], attributes=german(("de", "en")[each % 2])
            )
            for each in range(40)
        ),
        trending={"": [f"new-{each}" for each in range(1, 12)]},
    )
    release = CandidateRelease.load(release_folder, live=live)
    found = retrieve(release, viewer_of_rows(3), 40, filter=GERMAN)
    held = passing(GERMAN) - {3}
    new = found.rows[found.rows >= VIDEOS]
    ids = {release.video_id(row) for row in new.tolist()}
    assert ids
    assert ids <= {f"new-{each}" for each in range(0, 40, 2)}
    assert (found.source_masks & TRENDING.bit > 0).any()
    assert (found.source_masks & NEW.bit > 0).any()
    assert set(found.rows[found.rows < VIDEOS].tolist()) <= held


def test_a_changed_video_is_judged_by_its_new_attributes_at_once(
    searched: CandidateRelease, release_folder: Path
) -> None:
    live = followed()
    followed_release = CandidateRelease.load(release_folder, live=live)
    assert followed_release.live is not None
    table = AttributeTable.load(release_folder, VIDEOS)
    filters = Filters(table, searched.index, 1 << 20, followed_release.live)
    release = replace(searched, live=followed_release.live, filters=filters)
    before = retrieve(release, ViewerFeatures(), VIDEOS, filter=GERMAN)
    assert set(before.rows.tolist()) == passing(GERMAN)

    live.overlay.take([upserted(1, "video-0", tags=["cat"], attributes=german("en"))])
    live.overlay.take([upserted(2, "video-1", tags=["dog"], attributes=german("de"))])
    live.overlay.take_takedowns([removed(3, "video-2")])
    followed_release.live.update(live.overlay.newly_touched())

    after = retrieve(release, ViewerFeatures(), VIDEOS, filter=GERMAN)
    assert set(after.rows.tolist()) == passing(GERMAN) - {0, 2} | {1}
    assert after.filter_share == pytest.approx(len(passing(GERMAN)) / VIDEOS)
