"""The words of explanations."""

from __future__ import annotations

from vireo.server.recommend.wording import listed, ordinal, why_blocked


def test_ordinals_are_english() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 111, 812, 1_002)
    assert " ".join(map(ordinal, numbers)) == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 111th 812th 1,002nd"
    )


def test_a_list_names_three_and_counts_the_rest() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c", "d"], "or") == "a, b, c or d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_what_blocks_a_video_is_named() -> None:
    def why(key: int) -> str:
        return why_blocked(key, seed_key=1, hidden=[2], watched=[2, 3], excluded=[4])

    assert [why(key) for key in range(1, 6)] == [
        "It is the video that is playing.",
        "The viewer has hidden it.",
        "The viewer has watched it.",
        "The request excludes it.",
        "",
    ]
