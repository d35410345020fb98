"""Writer of a synthetic world as a data set, a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.errors import VireoError
from vireo.server.features.context import COLUMNS, DEVICES
from vireo.server.home import Home
from vireo.training.data.attributes import attribute_column, attribute_fields
from vireo.training.data.context import context_fields
from vireo.training.data.dataset import DatasetInfo, describe_dataset
from vireo.training.data.schema import INTERACTIONS, TIME, VIDEOS, VIEWERS
from vireo.training.data.synth.attributes import (
    ATTRIBUTES,
    COUNTRIES,
    age_ratings,
    creators,
    languages,
    regions,
)
from vireo.training.data.synth.context import LOCALES, ZONES, Int8Array
from vireo.training.data.synth.events import HIDE, KINDS, Events, all_events
from vireo.training.data.synth.world import REGIONS, SERIES, World, WorldConfig, hashed
from vireo.training.data.writing import dataset_writer

VIDEOS_AT_A_TIME = 131_072
WORDS_PER_TOPIC = 12
_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zu",
]
_PLANS = ("free", "family", "premium")
_AGES = ("16-24", "25-34", "35-49", "50+")
_FORMATS = ("short", "clip", "feature")
_MICROS = 1_000_000

Int64Array = npt.NDArray[np.int64]

_WORDS = pa.array([a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES[:10]])

TERMS = "Made up: these viewers and videos do not exist, and the data may be used for anything."
ROWS_AT_A_TIME = 262_144
"""Interactions per row group."""


def video_ids(count: int) -> pa.Array:
    """Return the id of each video by row: "v0000000" and so on."""
    return _numbered("v", np.arange(count))


def viewer_ids(count: int) -> pa.Array:
    """Return the id of each viewer by number: "u0000000" and so on."""
    return _numbered("u", np.arange(count))


def video_parts(world: World) -> Iterator[pa.Table]:
    """Yield the catalogue in parts; schema VIDEOS, with ATTRIBUTES.

    A title consists of two words of its topic, the series number and the episode number; tags are
    the topic, its region and a class of duration.
    """
    ids, seed, topics = video_ids(world.config.videos), world.config.seed, len(world.starts) - 1
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
                "published": pa.array(world.published[part] * _MICROS, TIME),
                "duration": pa.array(world.duration[part]),
                "creator": creators(seed, topics, topic, series),
                attribute_column("language"): languages(seed, topic, series),
                attribute_column("region"): regions(seed, topic, series),
                attribute_column("age_rating"): age_ratings(seed, topic, series),
            },
            schema=columns,
        )


def viewer_table(world: World) -> pa.Table:
    """Return the viewers; schema VIEWERS. Country encodes the region; plan and age are noise."""
    count = world.config.viewers
    random = world.config.random(10)
    attributes = [
        _named("country", COUNTRIES, world.region),
        _named("plan", _PLANS, random.integers(0, len(_PLANS), count)),
        _named("age", _AGES, random.integers(0, len(_AGES), count)),
    ]
    return pa.table({"viewer_id": viewer_ids(count), "attributes": _lists(attributes)}, VIEWERS)


def interaction_table(
    events: Events, first_row: int, viewers: pa.Array, videos: pa.Array
) -> pa.Table:
    """Return events as INTERACTIONS with their context if it is logged, numbered from `first_row`.

    Args:
        events: events in order of time.
        first_row: row number of the first event.
        viewers: viewer ids by number.
        videos: video ids by row.
    """
    count = len(events.time)
    fraction = pa.array(events.fraction, mask=events.kind == HIDE)
    table = pa.table(
        {
            "viewer_id": viewers.take(pa.array(events.viewer)),
            "video_id": videos.take(pa.array(events.video)),
            "timestamp": pa.array(events.time, TIME),
            "row": pa.array(np.arange(first_row, first_row + count)),
            "event": pa.array(KINDS).take(pa.array(events.kind)),
            "watched_fraction": fraction,
            "rating": pa.nulls(count, pa.float32()),
            "held_out": pa.array(np.zeros(count, np.bool_)),
        },
        schema=INTERACTIONS,
    )
    if (events.zone < 0).all():
        return table
    texts: dict[str, tuple[tuple[str, ...], Int8Array]] = {
        "time_zone": (ZONES, events.zone),
        "locale": (LOCALES, events.locale),
        "device": (DEVICES, events.device),
    }
    for field in context_fields(COLUMNS):
        values, places = texts[field.name]
        table = table.append_column(field, pa.array(values).take(pa.array(places)))
    return table


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
    rows_at_a_time: int = ROWS_AT_A_TIME,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DatasetInfo:
    """Generate the world of `config` and write it as data set `name`.

    Memory holds the world, some 100 bytes a video and 40 a viewer, and the interactions of one
    row group.

    Args:
        home: where to write the data set.
        name: the data set's name.
        config: size and seed of the world.
        force: replace an existing data set of that name.
        rows_at_a_time: interactions per row group; affects the file's layout only.
        progress: called with the interactions written so far and their total.

    Raises:
        VireoError: a data set of that name exists, `config` is invalid, or writing fails.
    """
    if home.data(name).exists() and not force:
        raise VireoError(
            f"there is a data set {name} already; pass --force to replace it, "
            "or --name to choose another name"
        )
    world = World.of(config)
    source = (
        f"made up: vireo data synth --viewers {config.viewers} --videos {config.videos} "
        f"--events {config.events} --days {config.days} --seed {config.seed}"
        + (" --context" if config.context else "")
        + (f" --drift {config.drift}" if config.drift != 1 else "")
        + (f" --repeats {config.repeats}" if config.repeats else "")
    )
    context = COLUMNS if config.context else ()
    with dataset_writer(
        home, name, source, TERMS, attributes=ATTRIBUTES, context=context
    ) as writer:
        for part in video_parts(world):
            writer.add_videos(part)
        writer.add_viewers(viewer_table(world))
        viewers, videos = viewer_ids(config.viewers), video_ids(config.videos)
        held: list[pa.Table] = []
        written = count = 0
        for events in all_events(world):
            held.append(interaction_table(events, written + count + 1, viewers, videos))
            count += len(events.time)
            while count >= rows_at_a_time:
                together = pa.concat_tables(held)
                writer.add_interactions(together.slice(0, rows_at_a_time))
                held = [together.slice(rows_at_a_time)]
                written, count = written + rows_at_a_time, count - rows_at_a_time
                progress(written, config.events)
        if count:
            writer.add_interactions(pa.concat_tables(held))
        progress(config.events, config.events)
    return describe_dataset(home, name)
