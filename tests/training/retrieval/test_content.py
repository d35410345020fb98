from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest

from vireo.server.features.content import CONTENT_LIMIT, content_ids, content_tokens, title_words
from vireo.training.retrieval.content import catalogue_tokens, fit_ridge, shared_vocabulary


def test_a_video_is_described_by_tags_time_length_and_words() -> None:
    tokens = content_tokens("The Thin, thin Man", ["Crime"], 1934, 91 * 60.0)
    words = ["word=the", "word=thin", "word=man"]
    assert tokens == ["tag=Crime", "decade=193", "year=1934", "duration=25", *words]
    assert content_tokens("", [], None, None) == []


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("東京タワー 2024", ["東京", "京タ", "タワ", "ワー", "2024"]),
        ("我爱vlog日常", ["我爱", "vlog", "日常"]),
        ("猫", ["猫"]),
        ("ที่นี่", ["ที่นี่"]),
        ("กินข้าว", ["กิน", "นข้", "ข้า", "าว"]),
        ("हिन्दी फ़िल्म", ["हिन्दी", "फ़िल्म"]),
        ("தமிழ் பாடல்", ["தமிழ்", "பாடல்"]),
        ("한국 드라마", ["한국", "드라마"]),
        ("\uff21\uff22\uff23 \uff76\uff9e\uff70", ["abc", "ガー"]),
        ("Cafe\u0301 snake_case, don't", ["café", "snake_case", "don", "t"]),
    ],
)
def test_titles_of_any_script_become_words(title: str, words: list[str]) -> None:
    assert title_words(title) == [unicodedata.normalize("NFKC", word) for word in words]


def test_many_tags_leave_room_for_the_words_of_a_title() -> None:
    tags = [f"t{number}" for number in range(40)]
    bag = content_tokens("a longer title of a video", tags, 2024, 60.0, "ana")
    assert len(bag) == 40 + 4 + 5
    kept = content_ids([bag], {token: number for number, token in enumerate(bag, start=1)})[0]
    first = [bag[number - 1] for number in kept.tolist()]
    words = [each.removeprefix("word=") for each in first if each.startswith("word=")]
    assert words == ["a", "longer", "title", "of", "video"]
    assert {"creator=ana", "year=2024", "tag=t0"} <= set(first)


def test_what_a_catalogue_lacks_is_left_out() -> None:
    videos = pd.DataFrame(
        {
            "title": ["a", "b", "c"],
            "tags": [[], ["t"], []],
            "published": [pd.NaT, pd.Timestamp("1999-05-01", tz="UTC"), pd.NaT],
            "duration": pd.Series([None, 0.0, None], dtype="float32"),
            "creator": ["ana", None, None],
        }
    )
    bags = [["creator=ana", "word=a"], ["tag=t", "decade=199", "year=1999", "word=b"], ["word=c"]]
    assert catalogue_tokens(videos) == bags


def test_tokens_of_one_video_alone_are_not_learned_and_ids_are_padded() -> None:
    assert shared_vocabulary([["a", "b"], ["b", "c"], ["b", "c"]]) == {"b": 1, "c": 2}
    many = [f"t{index}" for index in range(CONTENT_LIMIT + 5)]
    vocabulary = {token: index for index, token in enumerate(many, start=1)}
    ids = content_ids([["t1", "?", "t0"], many, []], vocabulary)
    assert ids.shape == (3, CONTENT_LIMIT)
    assert ids[0, :3].tolist() == [2, 1, 0]
    assert ids[1].all()
    assert not ids[2].any()


def test_an_embedding_is_guessed_from_what_videos_of_the_same_content_have() -> None:
    content = np.array([[1, 3]] * 30 + [[2, 3]] * 30 + [[1, 0], [2, 0]])
    counts = np.array([50] * 60 + [0, 0])
    known = np.repeat(np.eye(2), 30, axis=0)
    guessed = fit_ridge(content, counts, known).of(content)[counts == 0]
    assert np.allclose(guessed, [[1, 0], [0, 1]], atol=0.2)
