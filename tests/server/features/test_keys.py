"""Video keys, which are fixed for ever since releases and pods compare them, and their rows."""

from __future__ import annotations

import numpy as np
import pytest

from vireo.server.features.keys import (
    KeyCollisionError,
    VideoRows,
    unique_video_keys,
    video_key,
    video_keys,
)


def test_keys_never_change_between_versions() -> None:
    assert {text: video_key(text) for text in ("0", "1", "007", "Amélie")} == {
        "0": 1838281907459330133,
        "1": 7335560060985733464,
        "007": 42849539300347266,
        "Amélie": -7288377677590266770,
    }


def test_the_column_and_the_single_key_agree() -> None:
    ids = ["0", "00", "a b", "日本", "x" * 128]
    np.testing.assert_array_equal(video_keys(ids), [video_key(text) for text in ids])


def test_an_id_given_twice_is_named() -> None:
    with pytest.raises(KeyCollisionError, match="'b' and 'b'"):
        unique_video_keys(["a", "b", "c", "b"])


def test_two_ids_with_one_key_fail_and_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # A real XXH3 collision can't be made to order, so the hash is narrowed.
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", len)
    with pytest.raises(KeyCollisionError, match="'ab' and 'cd'"):
        unique_video_keys(["a", "ab", "abc", "cd"])


KEYS = np.array([50, -7, 900], np.int64)


def test_rows_are_found_and_unknown_keys_are_minus_one() -> None:
    found = VideoRows(KEYS).find(np.array([900, 1, 50, -7, 10**18, 50], np.int64))
    np.testing.assert_array_equal(found, [2, -1, 0, 1, -1, 0])


def test_an_empty_lookup_finds_nothing() -> None:
    assert VideoRows(KEYS).find(KEYS[:0]).shape == (0,)


def test_an_empty_catalogue_knows_nothing() -> None:
    np.testing.assert_array_equal(VideoRows(KEYS[:0]).find(KEYS), [-1, -1, -1])


@pytest.mark.parametrize(
    "keys",
    [
        np.random.default_rng(0).integers(-(2**63), 2**63, 20_000),
        np.arange(20_000),
        np.arange(20_000) << 44,
        np.arange(-1_000, 0),
    ],
    ids=["spread", "consecutive", "equal_low_bits", "negative"],
)
def test_every_key_is_found_for_any_distribution_of_keys(keys: np.ndarray) -> None:
    keys = np.unique(keys).astype(np.int64)
    order = np.random.default_rng(1).permutation(len(keys))
    unknown = np.setdiff1d(keys ^ (1 << 62), keys)
    rows = VideoRows(keys)
    np.testing.assert_array_equal(rows.find(keys[order]), order)
    assert len(unknown)
    assert (rows.find(unknown) == -1).all()


def test_many_rows_of_the_same_key_are_refused() -> None:
    with pytest.raises(KeyCollisionError, match="have the same key"):
        VideoRows(np.array([5, 1, 5, 5], np.int64))


def test_catalogues_of_any_size_and_chance_are_placed() -> None:
    random = np.random.default_rng(3)
    for count in random.integers(1, 60, 3_000).tolist():
        keys = random.integers(-(2**63), 2**63, count)
        np.testing.assert_array_equal(VideoRows(keys).find(keys), np.arange(count))
