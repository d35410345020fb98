"""Creators and attributes of a synthetic world's videos; a series has the same ones.

They follow the topics in part, as in life: a filter's videos are then neighbours, but not all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vireo.training.data.schema import AttributeKind
from vireo.training.data.synth.world import REGIONS, hashed, unit

Int64Array = npt.NDArray[np.int64]

ATTRIBUTES: dict[str, AttributeKind] = {
    "language": "labels",
    "region": "labels",
    "age_rating": "number",
}
COUNTRIES = ("CH", "BR", "IN", "JP", "NG")
"""Country of each region."""
_LANGUAGES = ("de", "pt", "hi", "ja", "en")
"""Language of each region."""
_AGES = np.array([0.0, 6.0, 12.0, 16.0, 18.0])
_AGE_SHARES = np.cumsum([0.3, 0.25, 0.25, 0.15, 0.05])
_OWN_TOPIC = 0.9
"""Share of the series whose creator mostly makes series of that topic."""
_OWN_LANGUAGE = 0.75
"""Share of the series that are surely in the language of their region."""
_EVERYWHERE, _AT_HOME = 0.6, 0.25
"""Shares of the series that may be watched everywhere, and in their region alone; others may be
watched in their region and another one."""
_TOPIC_AGE = 0.7
"""Share of the series that have the age rating of their topic."""
_UNRATED = 0.03
"""Share of the series without an age rating."""


def creators(seed: int, topics: int, topic: Int64Array, series: Int64Array) -> pa.Array:
    """Return the creator of each video; the first ones of a topic make the most series.

    Args:
        seed: the world's.
        topics: number of topics.
        topic: topic of each video, int64[m].
        series: number of its series in the topic, int64[m].
    """
    draw = hashed(seed, 12, topic, series)
    other = (draw % np.uint64(topics)).astype(np.int64)
    of_topic = np.where(unit(hashed(seed, 13, topic, series)) < _OWN_TOPIC, topic, other)
    number = (unit(draw) * (series + 1)).astype(np.int64)
    return pc.binary_join_element_wise(
        pa.scalar("creator"),
        pa.array(of_topic).cast("string"),
        pa.array(number).cast("string"),
        "-",
    )


def languages(seed: int, topic: Int64Array, series: Int64Array) -> pa.Array:
    """Return the language of each video, a list of one; arguments as for `creators`."""
    draw = hashed(seed, 14, topic, series)
    other = (draw % np.uint64(REGIONS)).astype(np.int64)
    own = unit(draw) < _OWN_LANGUAGE
    place = np.where(own, topic % REGIONS, other)
    offsets = np.arange(len(topic) + 1, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(_LANGUAGES).take(pa.array(place)))


def regions(seed: int, topic: Int64Array, series: Int64Array) -> pa.Array:
    """Return the countries in which each video may be watched; arguments as for `creators`."""
    draw = hashed(seed, 15, topic, series)
    where, other = unit(draw), (draw % np.uint64(REGIONS)).astype(np.int64)
    home = np.arange(REGIONS) == (topic % REGIONS)[:, None]
    second = (np.arange(REGIONS) == other[:, None]) & (where >= _EVERYWHERE + _AT_HOME)[:, None]
    allowed = home | second | (where < _EVERYWHERE)[:, None]
    offsets = np.concatenate([[0], np.cumsum(allowed.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(
        offsets, pa.array(COUNTRIES).take(pa.array(np.nonzero(allowed)[1]))
    )


def age_ratings(seed: int, topic: Int64Array, series: Int64Array) -> pa.Array:
    """Return the age rating of each video, null if it has none; arguments as for `creators`."""
    of_topic, draw = unit(hashed(seed, 16, topic, topic)), hashed(seed, 17, topic, series)
    own = unit(hashed(seed, 18, topic, series))
    place = np.searchsorted(_AGE_SHARES, np.where(own < _TOPIC_AGE, of_topic, unit(draw)))
    return pa.array(_AGES[np.minimum(place, len(_AGES) - 1)], mask=own >= 1 - _UNRATED)
