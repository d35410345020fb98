from __future__ import annotations

import pytest

from server.gateway.comparison import Comparisons, Slate, compare

TEN = tuple(f"video-{number}" for number in range(10))


def slate(ids: tuple[str, ...], score: float = 0.5, seconds: float = 0.1) -> Slate:
    return Slate(ids, (score,) * len(ids), seconds)


@pytest.mark.parametrize(
    ("shadow", "overlap"),
    [
        (TEN, 1.0),
        (TEN[::-1], 1.0),
        (("other", *TEN[:9]), 0.9),
        (tuple(f"other-{number}" for number in range(10)), 0.0),
        # The served best ten are what counts, wherever the shadow has them among its ten.
        (("a", "b", "c", "d", "e", *TEN), 0.5),
    ],
)
def test_overlap_is_the_share_of_the_served_ten_among_the_shadows_ten(
    shadow: tuple[str, ...], overlap: float
) -> None:
    assert compare(slate(TEN), slate(shadow)).overlap == pytest.approx(overlap)


def test_score_shift_and_times_tell_the_shadow_from_the_served() -> None:
    compared = compare(slate(TEN, 0.5, 0.1), slate(TEN, 0.75, 0.3))
    assert compared.score_shift == pytest.approx(0.25)
    assert (compared.served_seconds, compared.shadow_seconds) == (0.1, 0.3)


def test_summary_is_of_one_release_of_the_shadow() -> None:
    comparisons = Comparisons()
    assert comparisons.summary().compared == 0
    comparisons.add("first", compare(slate(TEN), slate(("other", *TEN[:9]))))
    comparisons.failed()
    comparisons.dropped()
    summary = comparisons.summary()
    assert (summary.release_id, summary.compared) == ("first", 1)
    assert (summary.failed, summary.dropped) == (1, 1)
    assert summary.overlap == pytest.approx(0.9)
    comparisons.add("second", compare(slate(TEN), slate(TEN)))
    summary = comparisons.summary()
    assert (summary.release_id, summary.compared, summary.failed) == ("second", 1, 0)
    assert summary.overlap == pytest.approx(1.0)
