"""The words of explanations."""

from __future__ import annotations

import pytest

from vireo.server.recommend.wording import listed, ordinal, why_blocked


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (111, "111th"),
        (812, "812th"),
        (1_002, "1,002nd"),
    ],
)
def test_ordinals_are_english(number: int, text: str) -> None:
    assert ordinal(number) == text


def test_a_list_names_three_and_counts_the_rest() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c", "d"], "or") == "a, b, c or d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("key", "words"),
    [(1, "playing"), (2, "hidden"), (3, "watched"), (4, "excludes"), (5, "")],
)
def test_a_blocked_video_is_blocked_by_something(key: int, words: str) -> None:
    # What plays counts as watched too, and what is hidden may have been watched: that says less.
    why = why_blocked(key, seed_key=1, hidden=[2], watched=[1, 2, 3], excluded=[4, 3])
    assert words in why
    assert bool(why) == bool(words)
