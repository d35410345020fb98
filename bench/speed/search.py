"""The search of a large catalogue, by selectivity of filters: recall, and cost over none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.rows import Figures, Row
from bench.speed.stand import SpeedPlan, read_viewers
from vireo.server.arrays import Int64Array
from vireo.server.features.looked_up import looked_up
from vireo.server.home import Home
from vireo.server.pod.viewer import decode_viewer
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
from vireo.training.features.watches import load_watches

SHARES = (0.5, 0.1, 0.02, 0.005, 0.001)
"""Shares of the videos that filters hold for."""
_FILTERS = 8
"""Filters of each kind and share."""
_NEIGHBOURS = 500
_MIN_RECALL = 0.95
_MAX_OVER_UNFILTERED = 1.3
_ATTRIBUTE = "passes"
_AT_A_TIME = 1 << 16

_Filters = Mapping[str, Sequence[FilterExpression | None]]
"""Filters by what they hold for."""


def measure_search(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Search the newest release by made-up attributes: of videos at random, and of like videos.

    The filters are cached, as those that come again and again are; viewers' vectors aren't. There
    are no rows if the index is exact, as those of small catalogues are.
    """
    release = CandidateRelease.load(home.trained_release(dataset))
    catalogue = f"{len(release.keys):,} videos"
    if not release.manifest.index.cells:
        console.print(f"{catalogue} are searched exactly: nothing to compare")
        return []
    everyone = load_watches(home, dataset)["viewer_id"].drop_duplicates()
    sampled = everyone.sample(min(plan.sample, len(everyone)), random_state=1)
    # Right after their last watch: made-up watches are of years ago.
    known = read_viewers(home.features(dataset), sampled)
    viewers = [replace(decode_viewer(viewer), asked_at=0) for viewer in known]
    neighbours = min(_NEIGHBOURS, len(release.keys))

    def queries(filters: Sequence[FilterExpression | None]) -> Iterator[CandidateQuery]:
        for place, viewer in enumerate(viewers):
            yield CandidateQuery(viewer, neighbours, filter=filters[place % len(filters)])

    filters, table = _made_up(release)
    release = replace(release, filters=Filters(table, release.index, FILTER_CACHE_BYTES))
    pipeline, figures, rows = CandidatePipeline(release), Figures(console), []
    with threadpool_limits(1):
        for name, some in filters.items():
            recall = float(np.mean([_recall(release, query) for query in queries(some)]))
            measure = f"recall@{neighbours} of the search, {name}, {catalogue}"
            rows.append(Row(measure, recall, bound=_MIN_RECALL, at_least=True))
        for _ in figures.rounds(plan.rounds):
            plain = _median_ms(pipeline, queries([None]))
            figures.add(f"retrieval without a filter, p50, CPU, {catalogue}, ms", plain)
            for name, some in filters.items():
                measure = f"retrieval over one without a filter, p50, CPU, {name}, {catalogue}"
                ratio = _median_ms(pipeline, queries(some)) / plain
                figures.add(measure, ratio, _MAX_OVER_UNFILTERED)
    return [*rows, *figures.rows()]


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
    found = two_tower(asked, query.count)
    return len(np.intersect1d(nearest, found)) / max(1, len(nearest))


def _made_up(release: CandidateRelease) -> tuple[_Filters, AttributeTable]:
    """Return filters of each share, and none, and an attribute by which they can be applied."""
    random, count = np.random.default_rng(0), len(release.keys)
    content = read_table(release.folder, layout.CONTENT_VECTORS, VECTOR_TYPES, (count, None))
    labelled: dict[str, Int64Array] = {}
    filters: dict[str, list[FilterExpression | None]] = {"without a filter": [None]}
    for share in SHARES:
        size = max(1, int(share * count))
        for by in ("at random", "by content"):
            some = filters[f"{share:.1%} of the videos {by}"] = []
            for number in range(_FILTERS):
                name = label(_ATTRIBUTE, f"{share} {by} {number}")
                if by == "at random":
                    rows = random.choice(count, size, replace=False)
                else:
                    rows = _like(content, int(random.integers(count)), size)
                labelled[name] = np.sort(rows)
                some.append(FilterExpression((Condition(_ATTRIBUTE, any_of=(name,)),)))
    names = sorted(labelled)
    texts = Texts(
        np.cumsum([0, *(len(name.encode()) for name in names)]),
        np.frombuffer("".join(names).encode(), np.uint8),
    )
    offsets = np.cumsum([0, *(len(labelled[name]) for name in names)])
    every = np.concatenate([labelled[name] for name in names]).astype(np.int32)
    declared, numbers = Declared((_ATTRIBUTE,), ()), np.zeros((count, 0))
    return filters, AttributeTable(declared, count, texts, offsets, every, numbers)


def _like(content: np.ndarray, row: int, size: int) -> Int64Array:
    """Return the rows of the `size` videos whose content is most like a video's."""
    mine = content[row].astype(np.float32)
    parts = (content[start : start + _AT_A_TIME] for start in range(0, len(content), _AT_A_TIME))
    likeness = np.concatenate([part.astype(np.float32) @ mine for part in parts])
    return np.argpartition(-likeness, size)[:size]
