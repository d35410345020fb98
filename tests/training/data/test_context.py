"""Context of interactions: imported, logged, and decoded as serving decodes that of requests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.builders.importing import imported
from vireo.server.features.context import COLUMNS, NAMES, context_ids
from vireo.server.home import Home
from vireo.training.data.context import (
    context_columns,
    context_names,
    contexts_of,
    video_languages,
)
from vireo.training.data.dataset import load_dataset
from vireo.training.data.files import BadRowsError
from vireo.training.data.log_events import interaction_events
from vireo.training.data.split import split_watches

ZONES = ("Europe/Zurich", "+05:45", "America/St_Johns", "no zone", "")
DEVICES = ("TV", "phone", "toaster", "")
LOCALES = ("de-CH", "pt_BR", "yue", "")


@pytest.fixture
def table() -> pd.DataFrame:
    """Interactions with contexts of every kind."""
    random, count = np.random.default_rng(1), 400

    def drawn(texts: tuple[str, ...]) -> list[str | None]:
        return [texts[place] or None for place in random.integers(0, len(texts), count)]

    times = np.sort(random.integers(1_600_000_000, 1_700_000_000, count))
    return pd.DataFrame(
        {
            "viewer_id": random.integers(0, 20, count).astype(str),
            "video_id": random.integers(0, 90, count).astype(str),
            "timestamp": pd.to_datetime(times, unit="s", utc=True).astype("datetime64[us, UTC]"),
            "row": np.arange(1, count + 1),
            "event": "play",
            "watched_fraction": np.float32(np.nan),
            "rating": np.float32(np.nan),
            "held_out": False,
            "time_zone": drawn(ZONES),
            "device": drawn(DEVICES),
            "locale": drawn(LOCALES),
        }
    )


def served(row: pd.Series) -> tuple[int, ...]:
    """The ids that a gateway makes of the same texts."""
    zone, device, locale = (row[name] or "" for name in COLUMNS)
    zone = "" if zone == "no zone" else zone
    return context_ids(int(row["timestamp"].timestamp()), zone, device, locale)


def test_watches_have_the_ids_that_requests_of_their_moment_have(table: pd.DataFrame) -> None:
    columns = context_columns(table, np.arange(len(table)))
    assert context_names(columns) == NAMES
    assert contexts_of(pd.DataFrame(columns)) == [served(row) for _, row in table.iterrows()]
    # The split keeps those of the first watch.
    watches = split_watches(table, "last")
    firsts = table.drop_duplicates(["viewer_id", "video_id"]).set_index(["viewer_id", "video_id"])
    keys = zip(watches["viewer_id"], watches["video_id"], strict=True)
    assert contexts_of(watches) == [served(firsts.loc[key]) for key in keys]


@pytest.mark.parametrize(("kept", "names"), [(["device"], ("device",)), ([], ())])
def test_watches_have_the_features_of_the_columns_that_there_are(
    table: pd.DataFrame, kept: list[str], names: tuple[str, ...]
) -> None:
    some = table.drop(columns=[name for name in COLUMNS if name not in kept])
    assert context_names(split_watches(some, "last").columns) == names


def test_an_import_keeps_the_context_and_refuses_what_is_no_time_zone(
    home: Home, table: pd.DataFrame
) -> None:
    columns = ["viewer_id", "video_id", "timestamp", *COLUMNS]
    videos = {"video_id": np.arange(90).astype(str), "title": ["a"] * 90}
    given = table[columns].assign(timestamp=table["timestamp"].astype(str))
    with pytest.raises(BadRowsError, match=r"time_zone: 'no zone' is not a time zone"):
        imported(home, given.to_csv(index=False), videos)
    given["time_zone"] = given["time_zone"].where(given["time_zone"] != "no zone", None)
    assert not imported(home, given.to_csv(index=False), videos).problems
    found = load_dataset(home, "mine").interactions.set_index("row")
    given.index += 2  # after the header
    pd.testing.assert_frame_equal(
        found[[*COLUMNS]].astype(object).fillna("").sort_index(),
        given[[*COLUMNS]].astype(object).fillna(""),
        check_names=False,
    )
    without = given.drop(columns=[*COLUMNS]).to_csv(index=False)
    imported(home, without, videos, force=True)
    assert not set(COLUMNS) & set(load_dataset(home, "mine").interactions)


def test_a_data_set_as_events_brings_its_context(table: pd.DataFrame) -> None:
    for event, (_, row) in zip(interaction_events("a", table), table.iterrows(), strict=True):
        assert [getattr(event, name) for name in COLUMNS] == [row[name] or "" for name in COLUMNS]


def test_a_video_has_the_language_of_its_first_label() -> None:
    first, *others = video_languages([["de", "fr"], [], None, ["yue"]]).tolist()
    assert first > 0
    assert others == [0, 0, 0]
