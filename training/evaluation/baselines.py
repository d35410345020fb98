"""Baselines that a trained chain must beat, their settings, and the values to tune these by.

A baseline is fitted on every watch before those that it is measured on. A half-life is the number
of later watches of a viewer that halve a watch's weight; without one all weigh the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import ItemItemRecommender
from rich.console import Console
from scipy import sparse
from threadpoolctl import threadpool_limits

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.progress import Bars
from vireo.training.retrieval.neighbours import EASE_LAMBDA, closed_form

MAX_NEIGHBOURS = 20_000_000
"""Maximum neighbours of all videos together, some 40 bytes each while they are looked for."""
Setting = int | float | tuple[float, ...] | None
"""A value of a baseline's configuration."""
Grid = Mapping[str, Sequence[Setting]]
"""Values to try by name of the setting, in order of trial."""
Baseline = Callable[[Sequence[Int64Array]], Float32Array]
"""A fitted recommender that knows nothing of a viewer but the history.

It returns scores of every video, float32[v, n], given the rows that each viewer watched, oldest
first."""


@dataclass(frozen=True)
class Past:
    """What every viewer of a data set watched before the watches that are measured."""

    histories: Sequence[Int64Array]
    """Rows that each viewer watched, oldest first."""
    videos: int
    """Size of the catalogue."""

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """1 where a viewer watched a video, float32[v, n], sparse."""
        return history_matrix(self.histories, self.videos)

    @cached_property
    def counts(self) -> Int64Array:
        """Number of viewers who watched each video, int64[n]."""
        return np.bincount(_joined(self.histories), minlength=self.videos)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the histories, hexadecimal."""
        digest = hashlib.sha256(np.int64(self.videos).tobytes())
        digest.update(np.array([len(rows) for rows in self.histories], np.int64).tobytes())
        digest.update(_joined(self.histories).tobytes())
        return digest.hexdigest()


def history_matrix(
    histories: Sequence[Int64Array], videos: int, half_life: float | None = None
) -> sparse.csr_array:
    """Return histories as sparse rows, float32[v, n].

    Args:
        histories: distinct rows that each viewer watched, oldest first.
        videos: size of the catalogue.
        half_life: of a watch's weight, which is 1 for the last watch.
    """
    lengths = [len(rows) for rows in histories]
    columns = _joined(histories)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    weights = np.ones(len(columns), np.float32)
    if half_life is not None:
        steps = _joined([np.arange(length - 1, -1, -1) for length in lengths])
        weights = np.float32(0.5) ** (steps / half_life).astype(np.float32)
    return sparse.csr_array((weights, columns, pointers), shape=(len(histories), videos))  # type: ignore[no-untyped-call]


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate([np.empty(0, np.int64), *parts])


class Fitter:
    """One past, and what several baselines and half-lives share of it.

    Caches the last EASE inverse and iALS factors, which take the most time.
    """

    def __init__(self, past: Past) -> None:
        self.past = past
        # The past keeps its matrix once made, so it isn't made unless a baseline needs it.
        self.ease = lru_cache(maxsize=1)(lambda weight: closed_form(past.matrix, weight))
        self.factors = lru_cache(maxsize=1)(lambda config: factorised(past, config))


@dataclass(frozen=True)
class PopularityConfig:
    """Settings of how often videos were watched, the same for everyone."""

    half_life: float | None = None

    def fit(self, fitter: Fitter) -> Baseline:
        """Return the fitted baseline."""
        past = fitter.past
        matrix = history_matrix(past.histories, past.videos, self.half_life)
        counts = np.ones(len(past.histories), np.float32) @ matrix
        return lambda histories: np.broadcast_to(counts, (len(histories), len(counts)))


@dataclass(frozen=True)
class ItemKnnConfig:
    """Settings of the sum of a video's cosines, by who watched them, with its neighbours."""

    neighbours: int = 50
    half_life: float | None = 5.0

    def fit(self, fitter: Fitter) -> Baseline:
        """Return the fitted baseline."""
        past = fitter.past
        scale = sparse.diags_array(1 / np.sqrt(np.maximum(past.counts, 1)))  # type: ignore[no-untyped-call]
        units = sparse.csr_matrix(past.matrix @ scale)  # type: ignore[no-untyped-call]
        units.indices, units.indptr = units.indices.astype(np.int32), units.indptr.astype(np.int32)
        neighbours = min(self.neighbours, max(1, MAX_NEIGHBOURS // past.videos))
        # Each video is its own nearest.
        model = ItemItemRecommender(K=neighbours + 1, num_threads=1)
        model.fit(units, show_progress=False)
        cosines = sparse.csr_array(model.similarity, dtype=np.float32)  # type: ignore[no-untyped-call]

        def scores(histories: Sequence[Int64Array]) -> Float32Array:
            matrix = history_matrix(histories, past.videos, self.half_life)
            return np.asarray((matrix @ cosines).toarray(), np.float32)

        return scores


@dataclass(frozen=True)
class EaseConfig:
    """Settings of the sum of the weights of EASE (Steck 2019) of what a viewer watched."""

    regularisation: float = EASE_LAMBDA
    """L2 regularisation of the weights, the paper's lambda."""
    half_life: float | None = None

    def fit(self, fitter: Fitter) -> Baseline:
        """Return the fitted baseline."""
        weights = fitter.ease(self.regularisation)

        def scores(histories: Sequence[Int64Array]) -> Float32Array:
            matrix = history_matrix(histories, len(weights), self.half_life)
            return np.asarray(matrix @ weights, np.float32)

        return scores


@dataclass(frozen=True)
class IalsConfig:
    """Settings of matrix factorisation; a viewer's factors are solved for on request.

    BM25 weights are worse and more iterations are no better: neither is in the grid.
    """

    half_life: float | None = 5.0
    """Watches after which the confidence in one halves, when a viewer's factors are solved for; all
    count the same when the videos' factors are learned."""
    regularisation: float = 10.0
    """L2 regularisation; the library doesn't scale it by the number of watches."""
    alpha: float = 1.0
    """Confidence in a watch; it is 1 for videos that weren't watched."""
    factors: int = 128
    iterations: int = 15

    def fit(self, fitter: Fitter) -> Baseline:
        """Return the fitted baseline."""
        model = fitter.factors(replace(self, half_life=None))
        factors = model.item_factors
        assert factors is not None, "fitted"

        def scores(histories: Sequence[Int64Array]) -> Float32Array:
            matrix = history_matrix(histories, len(factors), self.half_life)
            with threadpool_limits(1, user_api="blas"):
                viewers = model.recalculate_user(
                    np.arange(len(histories)),
                    sparse.csr_matrix(matrix),  # type: ignore[no-untyped-call]
                )
            return np.asarray(viewers @ factors.T, np.float32)

        return scores


def factorised(past: Past, config: IalsConfig) -> AlternatingLeastSquares:
    """Return the library's fitted model, which doesn't depend on `config.half_life`."""
    # The library uses threads of its own, and warns about BLAS threads below them.
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularisation,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=0,
        )
        model.fit(sparse.csr_matrix(past.matrix), show_progress=False)  # type: ignore[no-untyped-call]
    return model


@dataclass(frozen=True)
class MarkovConfig:
    """Settings of EASE, and of what others watched soon after a viewer's last watches beside it."""

    weight: float = 6.0
    """Weight of the transitions relative to EASE."""
    prior: float = 400.0
    """Watches without a successor added to each video's own, which damps rare videos."""
    steps: tuple[float, ...] = (1.0, 0.6, 0.4)
    """Weight of what came one step after the last watch, two steps after the one before, …"""
    half_life: float | None = 5.0
    regularisation: float = 500.0

    def fit(self, fitter: Fitter) -> Baseline:
        """Return the fitted baseline."""
        ease = EaseConfig(self.regularisation, self.half_life).fit(fitter)
        every = [
            _transition_rates(fitter.past, step, self.prior) * (self.weight * weight)
            for step, weight in enumerate(self.steps, 1)
        ]

        def scores(histories: Sequence[Int64Array]) -> Float32Array:
            found = ease(histories)
            for step, rates in enumerate(every, 1):
                viewers = [place for place, rows in enumerate(histories) if len(rows) >= step]
                last = [histories[place][-step] for place in viewers]
                found[viewers] += rates[last].toarray()
            return found

        return scores


def _transition_rates(past: Past, step: int, prior: float) -> sparse.csr_array:
    """Return the rate of each video `step` watches after each other, sparse float32[n, n]."""
    before = _joined([rows[:-step] for rows in past.histories])
    after = _joined([rows[step:] for rows in past.histories])
    share = 1 / (np.bincount(before, minlength=past.videos) + prior)
    # The entries of repeated pairs are summed.
    pairs = (share[before].astype(np.float32), (before, after))
    return sparse.csr_array(pairs, shape=(past.videos, past.videos))  # type: ignore[no-untyped-call]


Config = PopularityConfig | ItemKnnConfig | EaseConfig | IalsConfig | MarkovConfig


def changed(config: Config, values: Mapping[str, Setting]) -> Config:
    """Return the settings with other values for some; raise TypeError for an unknown name."""
    return replace(config, **values)  # type: ignore[arg-type]  # whose types the grids have


@dataclass(frozen=True)
class Declaration:
    """Settings that a baseline may have."""

    start: Config
    """Where the search starts; also used for data that the baseline wasn't tuned on."""
    grid: Grid


DECLARED: Mapping[str, Declaration] = MappingProxyType(
    {
        "popularity": Declaration(
            PopularityConfig(),
            {"half_life": (None, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.5, 0.25)},
        ),
        "item_knn": Declaration(
            ItemKnnConfig(),
            {
                "neighbours": (20, 50, 100, 200, 500, 2000),
                "half_life": (None, 10.0, 5.0, 3.0, 2.0, 1.0, 0.5),
            },
        ),
        "ease": Declaration(
            EaseConfig(),
            {"regularisation": (30.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 3000.0)},
        ),
        "ease_recency": Declaration(
            EaseConfig(half_life=5.0),
            {
                "regularisation": (100.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0),
                "half_life": (10.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0),
            },
        ),
        "ials": Declaration(
            IalsConfig(),
            {
                "half_life": (None, 10.0, 5.0, 4.0, 3.0, 2.0, 1.0),
                "regularisation": (1.0, 3.0, 10.0, 30.0, 100.0),
                "alpha": (0.3, 1.0, 3.0, 10.0, 30.0),
                "factors": (32, 64, 128, 256, 512),
            },
        ),
        "markov_blend": Declaration(
            MarkovConfig(),
            {
                "weight": (1.0, 2.0, 4.0, 6.0, 9.0, 13.0),
                "prior": (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0),
                "steps": (
                    (1.0,),
                    (1.0, 0.5),
                    (1.0, 0.6, 0.4),
                    (1.0, 0.8, 0.6),
                    (1.0, 0.7, 0.5, 0.4, 0.3),
                    (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
                ),
                "half_life": (10.0, 5.0, 3.0, 2.0),
                "regularisation": (100.0, 300.0, 500.0, 1000.0, 2000.0),
            },
        ),
    }
)
BASELINES = tuple(DECLARED)
QUICK = ("popularity", "item_knn", "ease")
"""Baselines of every evaluation; the second is possible at every size."""
CUBIC = frozenset({"ease", "ease_recency", "markov_blend"})
"""Baselines that invert a matrix of the catalogue's square."""
MAX_CUBIC_VIDEOS = 20_000
"""Maximum videos for the CUBIC baselines, which take 10 GB there."""


def fitted(
    names: Sequence[str], past: Past, settings: Mapping[str, Config] = MappingProxyType({})
) -> Iterator[tuple[str, Baseline]]:
    """Fit the `possible` ones of some baselines one by one, behind a progress bar.

    `settings` are by name; the initial ones are used for the others.
    """
    fitter, names = Fitter(past), possible(names, past.videos)
    with Bars(console=Console(stderr=True), transient=True) as bars:
        for name in bars.track(names, description="baselines"):
            bars.update(bars.task_ids[0], description=f"baseline {name}")
            yield name, settings.get(name, DECLARED[name].start).fit(fitter)


def possible(names: Sequence[str], videos: int) -> list[str]:
    """Return the baselines that can be fitted on a catalogue of this many videos."""
    return [name for name in names if videos <= MAX_CUBIC_VIDEOS or name not in CUBIC]
