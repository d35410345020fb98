from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vireo.training.data.dataset import DatasetInfo
from vireo.training.memory import MemoryEstimate, features_memory, training_memory
from vireo.training.profile import load_profile

MEASURED = {
    (1_000_000, 100_000): (0.97, 2.39),
    (10_000_000, 1_000_000): (2.05, 4.0),
}
"""Peaks in GB of features and training, by events and viewers, by `vireo bench memory`."""


def described(events: int, videos: int, viewers: int) -> DatasetInfo:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return DatasetInfo(
        name="mine",
        source="a test",
        interactions=events,
        videos=videos,
        viewers=viewers,
        events={"play": events * 9 // 10, "hide": events // 10},
        first=now,
        last=now,
        problems={},
        fingerprint="0" * 64,
    )


@pytest.mark.parametrize("size", MEASURED)
def test_the_memory_estimate_is_sufficient_and_less_than_half_too_high(
    size: tuple[int, int],
) -> None:
    events, entities = size
    info, (features, training) = described(events, entities, entities), MEASURED[size]
    assert 1 <= features_memory(info).needed / 1e9 / features <= 1.5
    assert 1 <= training_memory(info, load_profile("large")).needed / 1e9 / training <= 1.5


def test_the_memory_estimate_says_how_much_is_free() -> None:
    assert str(MemoryEstimate(2_500_000_000, free=16_000_000_000)) == (
        "takes about 2.5 GB of memory, 16.0 GB are free"
    )
    assert str(MemoryEstimate(2_500_000_000, free=1_000_000_000)) == (
        "takes about 2.5 GB of memory, 1.0 GB are free: close other programs first"
    )
