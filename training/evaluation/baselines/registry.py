"""The baselines by name, and which are left out where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from training.evaluation.baselines.ease import HALF_LIFE, Ease, ease_weights
from training.evaluation.baselines.ials import Ials
from training.evaluation.baselines.item_knn import ItemKnn
from training.evaluation.baselines.markov_blend import MarkovBlend
from training.evaluation.baselines.past import Baseline, Past
from training.evaluation.baselines.popularity import Popularity

BASELINES = ("popularity", "item_knn", "ease", "ease_recency", "ials", "markov_blend")
QUICK = ("popularity", "ease")
"""Those that every evaluation has."""
CUBIC = frozenset({"ease", "ease_recency", "markov_blend"})
"""Those that invert a matrix of the catalogue's square."""
CUBIC_LIMIT = 20_000
"""Videos; larger catalogues go without the CUBIC ones (here it takes 10 GB)."""


def fitted(
    names: Sequence[str], past: Past, fitting: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, Baseline]]:
    """Fits baselines one after the other; the CUBIC ones share the inverse.

    Args:
        names: which of BASELINES; those that the catalogue is too large for are left out.
        past: what to fit them on.
        fitting: called with the name before each.
    """
    weights = None
    for name in names:
        if name in CUBIC and past.videos > CUBIC_LIMIT:
            continue
        fitting(name)
        if name in CUBIC and weights is None:
            weights = ease_weights(past)
        match name:
            case "popularity":
                yield name, Popularity(past)
            case "item_knn":
                yield name, ItemKnn(past)
            case "ials":
                yield name, Ials(past)
            case "ease":
                assert weights is not None
                yield name, Ease(weights)
            case "ease_recency":
                assert weights is not None
                yield name, Ease(weights, HALF_LIFE)
            case "markov_blend":
                assert weights is not None
                yield name, MarkovBlend(past, Ease(weights, HALF_LIFE))
            case _:
                raise ValueError(f"no baseline is called {name}")
