"""Profiles, and what data of some size takes: which profile, how long and how much memory."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vireo.training.config import RankingConfig, RetrievalConfig
from vireo.training.data.dataset import DatasetInfo
from vireo.training.data.importing import ImportRequest
from vireo.training.data.schema import AttributeColumn
from vireo.training.profile import (
    PROFILES,
    SIZES,
    MemoryEstimate,
    ProfileError,
    choose_profile,
    estimate_import,
    features_memory,
    load_profile,
    training_memory,
)


def described(watches: int, videos: int, viewers: int = 10, hides: int = 7) -> DatasetInfo:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return DatasetInfo(
        name="mine",
        source="a test",
        interactions=watches + hides,
        videos=videos,
        viewers=viewers,
        events={"play": watches, "hide": hides},
        first=now,
        last=now,
        problems={},
        fingerprint="0" * 64,
    )


@pytest.mark.parametrize(
    ("watches", "videos", "profile"),
    [
        (100_000, 1_682, "demo"),
        (1_000_000, 3_706, "quality"),
        (100_000, 40_000, "demo"),
        (300_000, 40_000, "quality"),
        (300_000, 60_000, "large"),
        (10_000_000, 1_000_000, "large"),
        (100_000, 100_000, "demo"),
    ],
)
def test_the_profile_follows_from_the_size_of_the_data(
    watches: int, videos: int, profile: str
) -> None:
    assert choose_profile(described(watches, videos), refit=True)[0] == profile
    assert all((PROFILES / f"{size.profile}.toml").exists() for size in SIZES)


def test_the_choice_says_why_and_how_long_it_will_take() -> None:
    for refit, minutes in ((False, 50), (True, 60)):
        _, said = choose_profile(described(1_000_000, 3_706), refit=refit)
        assert "1,000,000 watches of 3,706 videos, so profile quality" in said
        assert f"{minutes} minutes" in said


@pytest.mark.parametrize(
    ("events", "entities", "features", "training"),
    [(1_000_000, 100_000, 0.97, 2.39), (10_000_000, 1_000_000, 2.05, 4.0)],
)
def test_the_memory_estimate_is_sufficient_and_less_than_half_too_high(
    events: int, entities: int, features: float, training: float
) -> None:
    """Peaks are in GB, as bench/README.md measures them."""
    info = described(events * 9 // 10, entities, entities, hides=events // 10)
    assert 1 <= features_memory(info).needed / 1e9 / features <= 1.5
    assert 1 <= training_memory(info, load_profile("large")).needed / 1e9 / training <= 1.5


def test_the_memory_estimate_says_how_much_is_free() -> None:
    said = "takes about 2.5 GB of memory, 16.0 GB are free"
    assert str(MemoryEstimate(2_500_000_000, free=16_000_000_000)) == said
    little = str(MemoryEstimate(2_500_000_000, free=1_000_000_000))
    assert little.endswith("1.0 GB are free: close other programs first")


def test_an_import_announces_its_size_and_memory_before_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"viewer-{n:07},video-{n:07},{1_700_000_000 + n}\n" for n in range(100_000))
    (tmp_path / "i.csv").write_text(f"viewer_id,video_id,timestamp\n{lines}")
    pq.write_table(pa.table({"video_id": range(70)}), tmp_path / "v.parquet")
    request = ImportRequest("mine", tmp_path / "i.csv", tmp_path / "v.parquet", tmp_path / "no.csv")
    size, _ = estimate_import(request)
    found = re.fullmatch(r"about ([\d,]+) interactions, 70 videos", size)
    assert found
    assert abs(int(found[1].replace(",", "")) - 100_000) < 1_000
    rows = {"i": 10_000_000, "v": 1_000_000, "no": 1_000_000}
    monkeypatch.setattr("vireo.training.profile._rows", lambda path: rows[path.stem])
    size, memory = estimate_import(request)
    assert size == "about 10,000,000 interactions, 1,000,000 viewers, 1,000,000 videos"
    assert str(memory).startswith("takes about 2.5 GB of ")
    more = estimate_import(replace(request, attributes=(AttributeColumn("a", "a"),) * 3))[1]
    assert more.needed == memory.needed + 3e8


@pytest.mark.parametrize("path", sorted(PROFILES.iterdir()), ids=lambda path: path.stem)
def test_the_profiles_that_ship_can_be_read(path: Path) -> None:
    profile = load_profile(path.stem)

    assert profile.retrieval.dimension % profile.retrieval.heads == 0


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="no profile 'best'; choose one of demo, large"):
        load_profile("best")


def test_a_file_is_a_profile_whose_missing_settings_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[retrieval]\nepochs = 3\nlearning_rate = 1\nmax_minutes = 2\n")

    profile = load_profile(str(path))

    assert profile.retrieval == RetrievalConfig(epochs=3, learning_rate=1.0, max_minutes=2.0)
    assert profile.ranking == RankingConfig()
    with pytest.raises(ProfileError, match=r"cannot read the profile .*other.toml: No such file"):
        load_profile(str(tmp_path / "other.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[retrival]\n", r"there is no \[retrival\]; there are retrieval, ranking"),
        ("epochs = 3\n", r"there is no \[epochs\]"),
        ("[retrieval]\nepoch = 3\n", r"there is no \[retrieval\] epoch; there are seed,"),
        ("[ranking]\nepoch = 3\n", r"there is no \[ranking\] epoch; there are seed,"),
        ("[retrieval]\nepochs = 2.5\n", r"\[retrieval\] epochs is 2.5: .* valid integer"),
        ("[retrieval]\nepochs = true\n", r"\[retrieval\] epochs is True: .* valid integer"),
        ('[retrieval]\ndropout = "high"\n', r"dropout is 'high': .* valid number"),
        ("[retrieval]\nthreads = 1979-05-27\n", r"threads is '1979-05-27': .* valid integer"),
        ("retrieval = 3\n", r"\[retrieval\] is 3: Input should be an object"),
        ("[retrieval\n", "not TOML"),
    ],
)
def test_a_mistake_in_a_profile_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)

    with pytest.raises(ProfileError, match=message):
        load_profile(str(path))
