"""The baselines by name: their initial settings, the settings to try, and how they are fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import MappingProxyType

from rich.console import Console

from vireo.training.evaluation.baselines import ease, ials, item_knn, markov_blend, popularity
from vireo.training.evaluation.baselines.ease import Ease, EaseConfig
from vireo.training.evaluation.baselines.ials import Ials, IalsConfig, factorised
from vireo.training.evaluation.baselines.item_knn import ItemKnn, ItemKnnConfig
from vireo.training.evaluation.baselines.markov_blend import MarkovBlend, MarkovConfig
from vireo.training.evaluation.baselines.past import Baseline, Grid, Past, Setting
from vireo.training.evaluation.baselines.popularity import Popularity, PopularityConfig
from vireo.training.heartbeat import Bars
from vireo.training.retrieval.ease import closed_form

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
        "popularity": Declaration(PopularityConfig(), popularity.GRID),
        "item_knn": Declaration(ItemKnnConfig(), item_knn.GRID),
        "ease": Declaration(EaseConfig(), ease.GRID),
        "ease_recency": Declaration(EaseConfig(half_life=5.0), ease.RECENCY_GRID),
        "ials": Declaration(IalsConfig(), ials.GRID),
        "markov_blend": Declaration(MarkovConfig(), markov_blend.GRID),
    }
)
BASELINES = tuple(DECLARED)
QUICK = ("popularity", "item_knn", "ease")
"""Baselines of every evaluation; the second is possible at every size."""
CUBIC = frozenset({"ease", "ease_recency", "markov_blend"})
"""Baselines that invert a matrix of the catalogue's square."""
MAX_CUBIC_VIDEOS = 20_000
"""Maximum videos for the CUBIC baselines, which take 10 GB there."""


class Fitter:
    """Fits baselines on one past.

    Caches the last EASE inverse and iALS factors, which take the most time and are shared by
    several baselines and half-lives.
    """

    def __init__(self, past: Past) -> None:
        self._past = past
        # The past keeps its matrix once made, so it isn't made unless a baseline needs it.
        self._ease = lru_cache(maxsize=1)(lambda weight: closed_form(past.matrix, weight))
        self._ials = lru_cache(maxsize=1)(partial(factorised, past))

    def fit(self, config: Config) -> Baseline:
        """Return the baseline that the type of `config` names, fitted."""
        match config:
            case PopularityConfig():
                return Popularity(self._past, config)
            case ItemKnnConfig():
                return ItemKnn(self._past, config)
            case EaseConfig():
                return Ease(self._ease(config.regularisation), config.half_life)
            case IalsConfig():
                return Ials(self._ials(replace(config, half_life=None)), config.half_life)
            case MarkovConfig():
                weights = self._ease(config.regularisation)
                return MarkovBlend(self._past, Ease(weights, config.half_life), config)


def fitted(
    names: Sequence[str], past: Past, settings: Mapping[str, Config] = MappingProxyType({})
) -> Iterator[tuple[str, Baseline]]:
    """Fit the `possible` ones of some baselines one by one, behind a progress bar.

    `settings` are by name; the initial ones are used for the others.
    """
    fitter, names = Fitter(past), possible(names, past.videos)
    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("baselines", total=len(names))
        for name in names:
            bars.update(task, description=f"baseline {name}")
            yield name, fitter.fit(settings.get(name, DECLARED[name].start))
            bars.advance(task)


def possible(names: Sequence[str], videos: int) -> list[str]:
    """Return the baselines that can be fitted on a catalogue of this many videos."""
    return [name for name in names if videos <= MAX_CUBIC_VIDEOS or name not in CUBIC]
