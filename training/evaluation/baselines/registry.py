"""The baselines by name: the settings that each starts from and may have, and how it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import MappingProxyType

from training.evaluation.baselines import ease, ials, item_knn, markov_blend, popularity
from training.evaluation.baselines.ease import Ease, EaseConfig, ease_weights
from training.evaluation.baselines.ials import Ials, IalsConfig, factorised
from training.evaluation.baselines.item_knn import ItemKnn, ItemKnnConfig
from training.evaluation.baselines.markov_blend import MarkovBlend, MarkovConfig
from training.evaluation.baselines.past import Baseline, Grid, Past, Setting
from training.evaluation.baselines.popularity import Popularity, PopularityConfig

Config = PopularityConfig | ItemKnnConfig | EaseConfig | IalsConfig | MarkovConfig


def changed(config: Config, values: Mapping[str, Setting]) -> Config:
    """Return the settings with other values for these; raise TypeError if one has no such name."""
    return replace(config, **values)  # type: ignore[arg-type]  # whose types the grids have


@dataclass(frozen=True)
class Declaration:
    """What a baseline's settings may be."""

    start: Config
    """Those where the search starts, and of data that it wasn't tuned on."""
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
QUICK = ("popularity", "ease")
"""Those that every evaluation has."""
CUBIC = frozenset({"ease", "ease_recency", "markov_blend"})
"""Those that invert a matrix of the catalogue's square."""
CUBIC_LIMIT = 20_000
"""Videos; larger catalogues go without the CUBIC ones (here it takes 10 GB)."""


class Fitter:
    """Fits baselines on one past.

    What takes longest, EASE's inverse and iALS' factors, is kept until another is asked for:
    several baselines, or several half-lives, share it.
    """

    def __init__(self, past: Past) -> None:
        """Fit nothing yet."""
        self._past = past
        self._ease = lru_cache(maxsize=1)(partial(ease_weights, past))
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
    names: Sequence[str],
    past: Past,
    fitting: Callable[[str], None] = lambda _: None,
    settings: Mapping[str, Config] = MappingProxyType({}),
) -> Iterator[tuple[str, Baseline]]:
    """Fit baselines one after the other.

    Args:
        names: which of BASELINES; those that the catalogue is too large for are left out.
        past: what to fit them on.
        fitting: called with the name before each.
        settings: by name; a baseline that isn't among them has those that it starts from.

    Raises:
        ValueError: no baseline has one of the names.
    """
    fitter = Fitter(past)
    for name in possible(names, past.videos):
        fitting(name)
        yield name, fitter.fit(settings.get(name, DECLARED[name].start))


def possible(names: Sequence[str], videos: int) -> list[str]:
    """Return the names of baselines that can be fitted on a catalogue of this many videos.

    Raises:
        ValueError: no baseline has one of the names.
    """
    unknown = [name for name in names if name not in DECLARED]
    if unknown:
        raise ValueError(f"no baseline is called {', '.join(unknown)}")
    return [name for name in names if videos <= CUBIC_LIMIT or name not in CUBIC]
