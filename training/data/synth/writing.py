"""Writer of a synthetic world as a data set, a part at a time."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from server.errors import VireoError
from server.home import Home
from training.data.dataset import DatasetInfo, describe_dataset
from training.data.synth.attributes import ATTRIBUTES
from training.data.synth.events import all_events
from training.data.synth.tables import (
    interaction_table,
    video_ids,
    video_parts,
    viewer_ids,
    viewer_table,
)
from training.data.synth.world import World, WorldConfig
from training.data.writing import dataset_writer

TERMS = "Made up: these viewers and videos do not exist, and the data may be used for anything."
ROWS_AT_A_TIME = 262_144
"""Interactions per row group."""


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
    )
    with dataset_writer(home, name, source, TERMS, attributes=ATTRIBUTES) as writer:
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
