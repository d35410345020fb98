from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vireo.training.data.dataset import DatasetInfo
from vireo.training.profile import PROFILES
from vireo.training.sizing import SIZES, choose_profile


def described(watches: int, videos: int) -> DatasetInfo:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return DatasetInfo(
        name="mine",
        source="a test",
        interactions=watches + 7,
        videos=videos,
        viewers=10,
        events={"play": watches, "hide": 7},
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
        (20_000, 5_000, "demo"),
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
    assert choose_profile(described(watches, videos)).profile == profile


def test_every_profile_that_can_be_chosen_exists() -> None:
    assert all((PROFILES / f"{size.profile}.toml").exists() for size in SIZES)


def test_the_choice_says_why_and_how_long_it_will_take() -> None:
    chosen = choose_profile(described(1_000_000, 3_706))
    assert "1,000,000 watches of 3,706 videos, so profile quality" in chosen.described(refit=False)
    assert "50 minutes" in chosen.described(refit=False)
    assert "60 minutes" in chosen.described(refit=True)
