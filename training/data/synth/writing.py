"""Writer of a synthetic world as a data set: its tables, a part at a time.

Creators and attributes of videos are the same within a series. They follow the topics in part, as
in life: a filter's videos are then neighbours, but not all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Int64Array
from vireo.server.features.context import COLUMNS, DEVICES
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, check_name_is_free, write_dataset
from vireo.training.data.interactions import Interactions
from vireo.training.data.schema import (
    TIME,
    VIDEOS,
    VIEWERS,
    AttributeKind,
    attribute_column,
    attribute_fields,
)
from vireo.training.data.synth.events import HIDE, LOCALES, ZONES, Events, all_events
from vireo.training.data.synth.world import (
    REGIONS,
    SERIES,
    World,
    WorldConfig,
    hashed,
    unit,
)

VIDEOS_AT_A_TIME = 131_072
WORDS_PER_TOPIC = 12
_LETTERS = "bacedifoguhajekilomunaperisotuvawexiyozu"
_SYLLABLES = [_LETTERS[place : place + 2] for place in range(0, len(_LETTERS), 2)]
_WORDS = pa.array([a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES[:10]])
_PLANS = ("free", "family", "premium")
_AGES = ("16-24", "25-34", "35-49", "50+")
_FORMATS = ("short", "clip", "feature")

TERMS = "Made up: these viewers and videos do not exist, and the data may be used for anything."
ATTRIBUTES: dict[str, AttributeKind] = {
    "language": "labels",
    "region": "labels",
    "age_rating": "number",
}
COUNTRIES = ("CH", "BR", "IN", "JP", "NG")
"""Country of each region."""
_LANGUAGES = ("de", "pt", "hi", "ja", "en")
"""Language of each region."""
_RATINGS = np.array([0.0, 6.0, 12.0, 16.0, 18.0])
_RATING_SHARES = np.cumsum([0.3, 0.25, 0.25, 0.15, 0.05])
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


def video_parts(world: World, ids: pa.Array) -> Iterator[pa.Table]:
    """Yield the catalogue in parts; schema VIDEOS, with ATTRIBUTES. `ids` are the videos' by row.

    A title consists of two words of its topic, the series number and the episode number; tags are
    the topic, its region and a class of duration.
    """
    seed, topics = world.config.seed, len(world.starts) - 1
    columns = pa.schema([*VIDEOS, *attribute_fields(ATTRIBUTES)])
    for start in range(0, world.config.videos, VIDEOS_AT_A_TIME):
        part = slice(start, start + VIDEOS_AT_A_TIME)
        topic = world.topic[part].astype(np.int64)
        series, episode = np.divmod(world.rank[part].astype(np.int64), SERIES)
        draw = hashed(seed, 9, topic, series)
        words = [
            _WORDS.take(pa.array(_word(seed, topic, draw >> np.uint64(shift)))) for shift in (0, 8)
        ]
        title = pc.binary_join_element_wise(
            *words, _text(series), pa.scalar("part"), _text(episode + 1), " "
        )
        length = np.searchsorted([120.0, 900.0], world.duration[part])
        tags = [
            _numbered("topic-", topic, 4),
            _numbered("region-", topic % REGIONS, 1),
            pa.array(_FORMATS).take(pa.array(length)),
        ]
        yield pa.table(
            {
                "video_id": ids.slice(start, len(topic)),
                "title": title,
                "tags": _lists(tags),
                "published": pa.array(world.published[part] * 1_000_000, TIME),
                "duration": pa.array(world.duration[part]),
                "creator": creators(seed, topics, topic, series),
                attribute_column("language"): languages(seed, topic, series),
                attribute_column("region"): regions(seed, topic, series),
                attribute_column("age_rating"): age_ratings(seed, topic, series),
            },
            schema=columns,
        )


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
    return pc.binary_join_element_wise(pa.scalar("creator"), _text(of_topic), _text(number), "-")


def languages(seed: int, topic: Int64Array, series: Int64Array) -> pa.Array:
    """Return the language of each video, a list of one; arguments as for `creators`."""
    draw = hashed(seed, 14, topic, series)
    other = (draw % np.uint64(REGIONS)).astype(np.int64)
    place = np.where(unit(draw) < _OWN_LANGUAGE, topic % REGIONS, other)
    return _lists([pa.array(_LANGUAGES).take(pa.array(place))])


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
    place = np.searchsorted(_RATING_SHARES, np.where(own < _TOPIC_AGE, of_topic, unit(draw)))
    return pa.array(_RATINGS[np.minimum(place, len(_RATINGS) - 1)], mask=own >= 1 - _UNRATED)


def viewer_table(world: World, ids: pa.Array) -> pa.Table:
    """Return the viewers; schema VIEWERS. Country encodes the region; plan and age are noise."""
    count = world.config.viewers
    random = world.config.random(10)
    attributes = [
        _named("country", COUNTRIES, world.region),
        _named("plan", _PLANS, random.integers(0, len(_PLANS), count)),
        _named("age", _AGES, random.integers(0, len(_AGES), count)),
    ]
    return pa.table({"viewer_id": ids, "attributes": _lists(attributes)}, VIEWERS)


def _interactions(events: Events, first_row: int) -> Interactions:
    """Return events as interactions that are numbered from `first_row`."""
    count = len(events)
    return Interactions(
        viewer=events["viewer"].astype(np.int32),
        video=events["video"].astype(np.int32),
        event=events["kind"],
        time=events["time"],
        row=np.arange(first_row, first_row + count),
        watched_fraction=np.where(events["kind"] == HIDE, np.float32(np.nan), events["fraction"]),
        rating=np.full(count, np.nan, np.float32),
        context=np.stack([events[name] for name in COLUMNS], 1),
    )


def _word(seed: int, topic: Int64Array, draw: npt.NDArray[np.uint64]) -> Int64Array:
    """Return a word of each topic as an index in _WORDS."""
    chosen = (draw % np.uint64(WORDS_PER_TOPIC)).astype(np.int64)
    return (hashed(seed, 11, topic, chosen) % np.uint64(len(_WORDS))).astype(np.int64)


def _numbered(prefix: str, numbers: Int64Array, width: int = 7) -> pa.Array:
    return pc.binary_join_element_wise(
        pa.scalar(prefix), pc.utf8_lpad(_text(numbers), width, "0"), ""
    )


def _text(numbers: Int64Array) -> pa.Array:
    return pa.array(np.asarray(numbers, np.int64)).cast(pa.string())


def _named(name: str, values: tuple[str, ...], places: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array([f"{name}={value}" for value in values]).take(pa.array(places))


def _lists(columns: list[pa.Array]) -> pa.Array:
    """Return one list per row, with one value of each column."""
    count, width = len(columns[0]), len(columns)
    every = pa.concat_arrays(columns)
    order = np.arange(count * width).reshape(width, count).T.ravel()
    offsets = np.arange(0, count * width + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), every.take(pa.array(order)))


def write_world(
    home: Home,
    name: str,
    config: WorldConfig,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DatasetInfo:
    """Generate the world of `config` and write it as data set `name`.

    Memory holds the world, some 100 bytes a video and 40 a viewer, and a block of interactions.

    Args:
        home: where to write the data set.
        name: the data set's name.
        config: size and seed of the world.
        force: replace an existing data set of that name.
        progress: called with the interactions written so far and their total.

    Raises:
        VireoError: a data set of that name exists, `config` is invalid, or writing fails.
    """
    check_name_is_free(home, name, force=force)
    world = World.of(config)
    viewers = _numbered("u", np.arange(config.viewers))
    videos = _numbered("v", np.arange(config.videos))
    texts = {"time_zone": ZONES, "locale": LOCALES, "device": DEVICES}
    known = [pa.array(texts[name] if config.context else (), pa.string()) for name in COLUMNS]

    def interactions() -> Iterator[pa.Table]:
        written = 0
        for events in all_events(world):
            yield _interactions(events, written + 1).table(viewers, videos, known)
            written += len(events)
            progress(written, config.events)

    return write_dataset(
        home,
        name,
        _source(config),
        videos=video_parts(world, videos),
        viewers=viewer_table(world, viewers),
        interactions=interactions(),
        terms=TERMS,
        attributes=ATTRIBUTES,
        context=COLUMNS if config.context else (),
    )


def _source(config: WorldConfig) -> str:
    """Return the command that makes the world."""
    return (
        f"made up: vireo data synth --viewer-count {config.viewers} --video-count {config.videos} "
        f"--event-count {config.events} --days {config.days} --seed {config.seed}"
        + (" --context" if config.context else "")
        + (f" --drift {config.drift}" if config.drift != 1 else "")
        + (f" --repeats {config.repeats}" if config.repeats else "")
    )
