"""A page is filled by pins, claims and the order of scores, within the bounds of its labels."""

from __future__ import annotations

import numpy as np

from vireo.server.recommend.page import Caps, fill_page


def caps(most: int, labels: str) -> Caps:
    """A cap of candidates that have a letter each."""
    return [(most, lambda place: labels[place])]


def test_pinned_places_have_their_positions_and_the_others_keep_their_order() -> None:
    assert fill_page(range(6), 5, pins={0: 4, 3: 0}).places.tolist() == [4, 1, 2, 0, 3]


def test_pins_beyond_the_page_are_as_usual() -> None:
    assert fill_page(range(4), 3, pins={3: 1}).places.tolist() == [0, 1, 2]


def test_pins_move_up_if_there_are_too_few_others() -> None:
    assert fill_page(range(3), 3, pins={2: 0}, caps=caps(1, "abb")).places.tolist() == [1, 0]


def test_a_cap_counts_pinned_places_first_and_never_keeps_them_off() -> None:
    bound = caps(1, "abab")
    page = fill_page(range(4), 4, pins={1: 2, 2: 0}, caps=bound)
    assert page.places.tolist() == [1, 2, 0]
    assert page.kept_off == [1]


def test_a_cap_holds_for_reserved_positions_too() -> None:
    bound = caps(1, "aabc")
    claims = [(1.0, np.array([1, 3]))]
    page = fill_page(range(4), 3, queues=claims, caps=bound)
    assert page.places.tolist() == [1, 3, 2]
    assert page.kept_off == [1]


def test_a_label_that_a_candidate_has_twice_counts_once() -> None:
    bound: Caps = [(2, lambda _: ["a", "a"])]
    page = fill_page(range(3), 3, caps=bound)
    assert page.places.tolist() == [0, 1]
    assert page.kept_off == [1]
