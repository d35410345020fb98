from __future__ import annotations

import pandas as pd

from server.features.content import CONTENT_LIMIT, content_ids, content_tokens
from training.retrieval.content import catalogue_tokens, shared_vocabulary


def test_a_video_is_described_by_tags_time_length_and_words() -> None:
    tokens = content_tokens("The Thin, thin Man", ["Crime"], 1934, 91 * 60.0)

    assert tokens == [
        "tag=Crime",
        "decade=193",
        "year=1934",
        "duration=25",
        "word=the",
        "word=thin",
        "word=man",
    ]


def test_a_video_of_which_nothing_is_known_has_no_tokens() -> None:
    assert content_tokens("", [], None, None) == []


def test_null_times_and_durations_are_left_out() -> None:
    videos = pd.DataFrame(
        {
            "title": ["a", "b"],
            "tags": [[], ["t"]],
            "published": [pd.NaT, pd.Timestamp("1999-05-01", tz="UTC")],
            "duration": pd.Series([None, 0.0], dtype="float32"),
        }
    )

    assert catalogue_tokens(videos) == [
        ["word=a"],
        ["tag=t", "decade=199", "year=1999", "word=b"],
    ]


def test_tokens_of_one_video_alone_are_not_learned() -> None:
    assert shared_vocabulary([["a", "b"], ["b", "c"], ["b", "c"]]) == {"b": 1, "c": 2}


def test_ids_are_padded_and_unknown_tokens_dropped() -> None:
    many = [f"t{index}" for index in range(CONTENT_LIMIT + 5)]
    vocabulary = {token: index for index, token in enumerate(many, start=1)}

    ids = content_ids([["t1", "?", "t0"], many, []], vocabulary)

    assert ids.shape == (3, CONTENT_LIMIT)
    assert ids[0, :3].tolist() == [2, 1, 0]
    assert ids[1].all()
    assert not ids[2].any()
