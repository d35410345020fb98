"""Video keys are fixed for ever: releases and pods compare them across versions."""

from __future__ import annotations

import numpy as np
import pytest

from vireo.server.features.keys import KeyCollisionError, unique_video_keys, video_key, video_keys


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
