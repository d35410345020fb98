"""Context of interactions: imported, logged, and decoded as serving decodes that of requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vireo.server.features.context import COLUMNS, NAMES, context_ids
from vireo.server.home import Home
from vireo.training.data.as_events import interaction_events
from vireo.training.data.context import (
    ContextTexts,
    context_columns,
    context_names,
    contexts_of,
    video_languages,
    watch_column,
)
from vireo.training.data.dataset import load_dataset
from vireo.training.data.importing import ImportRequest, import_dataset
from vireo.training.data.problems import BadRowsError
from vireo.training.data.split import split_watches
from vireo.training.data.synth.world import WorldConfig
from vireo.training.data.synth.writing import write_world

ZONES = ("Europe/Zurich", "+05:45", "America/St_Johns", "no zone", "")
DEVICES = ("TV", "phone", "toaster", "")
LOCALES = ("de-CH", "pt_BR", "yue", "")


def interactions(count: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(1)

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


def test_watches_have_the_ids_that_requests_of_their_moment_have() -> None:
    table = interactions()
    columns = context_columns(table, np.arange(len(table)))

    found = contexts_of(pd.DataFrame(columns))

    assert context_names(columns) == NAMES
    assert found == [served(row) for _, row in table.iterrows()]


def test_the_split_keeps_the_context_of_the_first_watch() -> None:
    table = interactions()
    watches = split_watches(table, "last")
    firsts = table.drop_duplicates(["viewer_id", "video_id"]).set_index(["viewer_id", "video_id"])

    found = contexts_of(watches)

    keys = zip(watches["viewer_id"], watches["video_id"], strict=True)
    assert found == [served(firsts.loc[key]) for key in keys]


def test_watches_have_the_features_of_the_columns_that_there_are() -> None:
    table = interactions().drop(columns=["time_zone", "locale"])
    assert context_names(split_watches(table, "last").columns) == ("device",)
    assert context_names(split_watches(table.drop(columns="device"), "last").columns) == ()


def imported(folder: Path, table: pd.DataFrame, *, skip: bool = False) -> pd.DataFrame:
    """Import a file of interactions and return those of the data set."""
    columns = ["viewer_id", "video_id", "timestamp", *(set(COLUMNS) & set(table))]
    table.assign(timestamp=table["timestamp"].astype(str))[columns].to_csv(
        folder / "i.csv", index=False
    )
    videos = pd.DataFrame({"video_id": np.arange(90).astype(str), "title": "a"})
    videos.to_csv(folder / "v.csv", index=False)
    request = ImportRequest("mine", folder / "i.csv", folder / "v.csv", skip_bad_rows=skip)
    import_dataset(Home(folder / "home"), request)
    return load_dataset(Home(folder / "home"), "mine").interactions


def test_an_import_keeps_the_context_and_notes_no_ignored_column(tmp_path: Path) -> None:
    table = interactions()
    table["time_zone"] = table["time_zone"].where(table["time_zone"] != "no zone", None)

    found = imported(tmp_path, table)

    given = table.assign(row=table["row"] + 1).set_index("row")
    both = found.set_index("row").join(given, rsuffix="_")
    for name in COLUMNS:
        assert both[name].fillna("").tolist() == both[f"{name}_"].fillna("").tolist(), name


def test_an_import_without_context_has_no_columns_of_it(tmp_path: Path) -> None:
    found = imported(tmp_path, interactions().drop(columns=list(COLUMNS)))
    assert not set(COLUMNS) & set(found)


def test_an_import_refuses_what_is_no_time_zone_by_row(tmp_path: Path) -> None:
    with pytest.raises(BadRowsError, match=r"time_zone: 'no zone' is not a time zone"):
        imported(tmp_path, interactions())


def test_a_data_set_as_events_brings_its_context() -> None:
    table = interactions()
    for event, (_, row) in zip(interaction_events("a", table), table.iterrows(), strict=True):
        assert [getattr(event, name) for name in COLUMNS] == [row[name] or "" for name in COLUMNS]


def test_more_texts_than_are_kept_count_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vireo.training.data.context.MAX_TEXTS", 3)
    assert ContextTexts().places(1, ["a", "b", "c", "a", "c"]).tolist() == [1, 2, 0, 1, 0]


def test_a_video_has_the_language_of_its_first_label() -> None:
    assert video_languages([["de", "fr"], [], None, ["yue"]]).tolist()[0] > 0
    assert video_languages([["de", "fr"], [], None, ["yue"]]).tolist()[1:] == [0, 0, 0]


def test_a_synthetic_world_has_context_and_tastes_by_it_only_if_asked(tmp_path: Path) -> None:
    home, size = Home(tmp_path), (60, 2_000, 3_000)
    write_world(home, "plain", WorldConfig(*size))
    write_world(home, "rich", WorldConfig(*size, context=True))
    plain, rich = (load_dataset(home, name).interactions for name in ("plain", "rich"))

    assert not set(COLUMNS) & set(plain)
    assert rich[list(COLUMNS)].notna().all().all()
    videos = load_dataset(home, "rich").videos.set_index("video_id")
    length = videos["duration"].reindex(rich["video_id"].astype(str)).to_numpy()
    on_tv = (rich["device"] == "tv").to_numpy()
    assert np.median(length[on_tv]) > 1.5 * np.median(length[~on_tv])


def test_columns_are_named_by_their_feature() -> None:
    assert watch_column("hour") == "context.hour"
