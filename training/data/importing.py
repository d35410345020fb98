"""Import of a user's own interactions, videos and viewers as a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from server.errors import VireoError
from server.home import Home
from training.data.attributes import AttributeColumn, check_attributes
from training.data.dataset import DatasetInfo, describe_dataset
from training.data.entities import read_videos, read_viewers
from training.data.interactions import (
    Interactions,
    in_order,
    interaction_tables,
    most_watched,
    viewers_in,
)
from training.data.interactions_file import read_interactions
from training.data.problems import Problems
from training.data.schema import VIEWERS
from training.data.split import MIN_WATCHES
from training.data.writing import dataset_writer

MIN_VIDEOS = 2
"""Minimum catalogue size; fewer videos leave nothing to choose from."""


@dataclass(frozen=True)
class ImportRequest:
    """Files and options of an import."""

    name: str
    interactions: Path
    videos: Path
    viewers: Path | None = None
    skip_bad_rows: bool = False
    """Drop and count bad rows instead of refusing the files."""
    force: bool = False
    """Replace an existing data set of that name."""
    attributes: tuple[AttributeColumn, ...] = ()
    """Attributes of videos to declare."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to read."""
        return (self.interactions, self.videos, *([self.viewers] if self.viewers else []))


def import_dataset(home: Home, request: ImportRequest) -> DatasetInfo:
    """Validate and import a user's files part by part; `estimate_import` gives the memory needed.

    Raises:
        BadRowsError: there are bad rows, and `skip_bad_rows` is off.
        VireoError: attributes can't be declared, a file can't be read, a column is missing or
            unusable, there is too little data to train on, or writing fails.
    """
    check_attributes(request.attributes)
    check_name_is_free(home, request.name, force=request.force)
    problems, notes, now = Problems(), Counter[str](), datetime.now(UTC)
    videos = read_videos(request.videos, problems, notes, now, request.attributes)
    profiles = read_viewers(request.viewers, problems, notes)
    # A bad video row is reported once, not again for each of its interactions.
    known = videos.good["video_id"] if request.skip_bad_rows else videos.ids
    video_ids = pc.unique(known)
    found, viewer_ids = read_interactions(request.interactions, video_ids, problems, notes, now)
    if problems.total and not request.skip_bad_rows:
        raise problems.error()
    order = in_order(found, notes)
    check_size(found, videos.good.num_rows)
    source = f"imported from {', '.join(path.name for path in request.files)}"
    kinds = {each.name: each.kind for each in request.attributes}
    with dataset_writer(home, request.name, source, problems=notes, attributes=kinds) as writer:
        writer.add_videos(videos.good)
        writer.add_viewers(_all_viewers(profiles, viewers_in(found, order, viewer_ids)))
        for part in interaction_tables(found, order, viewer_ids, video_ids):
            writer.add_interactions(part)
    return describe_dataset(home, request.name)


def check_name_is_free(home: Home, name: str, *, force: bool) -> None:
    """Raise VireoError if there is a data set of that name, unless it may be replaced."""
    if home.data(name).exists() and not force:
        raise VireoError(
            f"there is a data set {name} already; pass --force to replace it, "
            "or --name to choose another name"
        )


def check_size(found: Interactions, videos: int) -> None:
    """Raise VireoError if there is too little data to train on."""
    if videos < MIN_VIDEOS:
        raise VireoError(
            f"there are {videos} videos, too few to recommend from; import at least {MIN_VIDEOS}"
        )
    most = most_watched(found)
    if most < MIN_WATCHES:
        raise VireoError(
            f"no viewer watched more than {most} videos, too few to train on; at least one needs "
            f"{MIN_WATCHES} (events play or like)"
        )


def _all_viewers(profiles: pa.Table, seen: pa.Array) -> pa.Table:
    """Return the viewers of the viewers file, then those that only interactions name."""
    others = seen.filter(pc.invert(pc.is_in(seen, value_set=profiles["viewer_id"])))
    rest = pa.table({"viewer_id": others, "attributes": [[]] * len(others)}, schema=VIEWERS)
    return pa.concat_tables([profiles, rest])
