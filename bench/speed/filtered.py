"""Retrieval by filters of several selectivities: recall of the search, and cost over none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from bench.rows import Figures, Row
from bench.speed.plan import SpeedPlan
from vireo.server.arrays import Int64Array
from vireo.server.features.looked_up import looked_up
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.filters.declared import Declared, label
from vireo.server.recommend.filters.expression import Condition, FilterExpression
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval.allowed import Filters
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import FILTER_CACHE_BYTES, CandidateRelease
from vireo.server.recommend.retrieval.sources import two_tower
from vireo.server.releases import layout
from vireo.server.releases.tables import VECTOR_TYPES, Texts, read_table

SHARES = (0.5, 0.1, 0.02, 0.005, 0.001)
"""Shares of the videos that filters hold for."""
_FILTERS = 8
"""Filters of each kind and share."""
_MIN_RECALL = 0.95
_MAX_OVER_UNFILTERED = 1.3
_ATTRIBUTE = "passes"
_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class _Kind:
    """Filters of one share, at random or by content."""

    name: str
    filters: tuple[FilterExpression, ...]


def filtered_rows(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    neighbours: int,
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    """Search a large release by made-up attributes: of videos at random, and of like videos.

    The filters are cached, as those that come again and again are; viewers' vectors aren't.
    """
    kinds, filters = _made_up(release)
    release = replace(release, filters=filters)
    pipeline, catalogue = CandidatePipeline(release), f"{len(release.keys):,} videos"
    rows = []
    for kind in kinds:
        queries = list(_queries(viewers, neighbours, kind.filters))
        recall = float(np.mean([_recall(release, query) for query in queries]))
        measure = f"recall@{neighbours} of the search, {kind.name}, {catalogue}"
        rows.append(Row(measure, recall, bound=_MIN_RECALL, at_least=True))
    figures = Figures(console)
    for _ in figures.rounds(plan.rounds):
        plain = _median_ms(pipeline, _queries(viewers, neighbours, [None]))
        figures.add(f"retrieval without a filter, p50, CPU, {catalogue}, ms", plain)
        for kind in kinds:
            taken = _median_ms(pipeline, _queries(viewers, neighbours, kind.filters))
            measure = f"retrieval over one without a filter, p50, CPU, {kind.name}, {catalogue}"
            figures.add(measure, taken / plain, _MAX_OVER_UNFILTERED)
    rows += figures.rows()
    return [*rows, *_first_rows(release, kinds, plan, console)]


def _first_rows(
    release: CandidateRelease, kinds: Sequence[_Kind], plan: SpeedPlan, console: Console
) -> list[Row]:
    """Measure what a filter costs that isn't cached yet."""
    assert release.filters is not None
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        for kind in kinds:
            release.filters.clear()
            begun = time.process_time()
            release.filters.apply(kind.filters[number % len(kind.filters)])
            taken = 1000 * (time.process_time() - begun)
            figures.add(f"first use of a filter, {kind.name}, CPU, ms", taken)
    return figures.rows()


def _queries(
    viewers: Sequence[ViewerFeatures],
    count: int,
    filters: Sequence[FilterExpression | None],
) -> Iterator[CandidateQuery]:
    for place, viewer in enumerate(viewers):
        yield CandidateQuery(viewer, count, filter=filters[place % len(filters)])


def _median_ms(pipeline: CandidatePipeline, queries: Iterator[CandidateQuery]) -> float:
    """Return the median processor milliseconds of a retrieval."""
    taken = []
    for query in queries:
        begun = time.process_time()
        pipeline.retrieve(query)
        taken.append(1000 * (time.process_time() - begun))
    return float(np.median(taken))


def _recall(release: CandidateRelease, query: CandidateQuery) -> float:
    """Return the share of the exact nearest free videos that the search finds."""
    asked = Retrieval.of(release, query)
    rows = asked.free_rows
    parts = [rows[start : start + _AT_A_TIME] for start in range(0, len(rows), _AT_A_TIME)]
    scores = np.concatenate([looked_up(release.vectors, part) @ asked.vector for part in parts])
    nearest = asked.best(rows, scores, query.count)
    found = two_tower.propose(asked, query.count)
    return len(np.intersect1d(nearest, found)) / max(1, len(nearest))


def _made_up(release: CandidateRelease) -> tuple[list[_Kind], Filters]:
    """Return filters of each share, and an attribute by which they can be applied."""
    random = np.random.default_rng(0)
    count = len(release.keys)
    content = read_table(release.folder, layout.CONTENT_VECTORS, VECTOR_TYPES, (count, None))
    labelled: dict[str, Int64Array] = {}
    kinds = []
    for share in SHARES:
        size = max(1, int(share * count))
        for by in ("at random", "by content"):
            names = [f"{share} {by} {number}" for number in range(_FILTERS)]
            for name in names:
                if by == "at random":
                    rows = random.choice(count, size, replace=False)
                else:
                    rows = _like(content, int(random.integers(count)), size)
                labelled[label(_ATTRIBUTE, name)] = np.sort(rows)
            filters = (
                FilterExpression((Condition(_ATTRIBUTE, any_of=(label(_ATTRIBUTE, name),)),))
                for name in names
            )
            kinds.append(_Kind(f"{share:.1%} of the videos {by}", tuple(filters)))
    table = _table(labelled, count)
    return kinds, Filters(table, release.index, FILTER_CACHE_BYTES)


def _like(content: np.ndarray, row: int, size: int) -> Int64Array:
    """Return the rows of the `size` videos whose content is most like a video's."""
    mine = content[row].astype(np.float32)
    likeness = np.concatenate(
        [
            content[start : start + _AT_A_TIME].astype(np.float32) @ mine
            for start in range(0, len(content), _AT_A_TIME)
        ]
    )
    return np.argpartition(-likeness, size)[:size]


def _table(labelled: Mapping[str, Int64Array], count: int) -> AttributeTable:
    """Return the attributes of `count` videos, given the rows of each label."""
    names = sorted(labelled)
    content = np.frombuffer("".join(names).encode(), np.uint8)
    return AttributeTable(
        Declared((_ATTRIBUTE,), ()),
        count,
        Texts(np.cumsum([0, *(len(name.encode()) for name in names)]), content),
        np.cumsum([0, *(len(labelled[name]) for name in names)]),
        np.concatenate([labelled[name] for name in names]).astype(np.int32),
        np.zeros((count, 0)),
    )
