from __future__ import annotations

import pytest

from vireo.server.gateway.stages.shadow import Comparisons, Slate, compare

TEN = tuple(f"video-{number}" for number in range(10))


def slate(
    ids: tuple[str, ...], score: float = 0.5, seconds: float = 0.1, release_id: str = "served"
) -> Slate:
    return Slate(release_id, ids, (score,) * len(ids), seconds)


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


def test_a_shadow_whose_scores_are_no_numbers_spoils_no_summary() -> None:
    comparisons = Comparisons()
    comparisons.add(slate(TEN, 0.5), slate(TEN, 0.75, release_id="odd"))
    for score in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="isn't finite"):
            comparisons.add(slate(TEN), slate(TEN, score, release_id="odd"))
    assert comparisons.summary().compared == 1
    assert comparisons.summary().mean_score_shift == pytest.approx(0.25)


def test_score_shift_and_latencies_compare_shadow_with_served() -> None:
    compared = compare(slate(TEN, 0.5, 0.1), slate(TEN, 0.75, 0.3))
    assert compared.score_shift == pytest.approx(0.25)
    assert (compared.served_seconds, compared.shadow_seconds) == (0.1, 0.3)


def test_summary_is_of_one_release_of_the_shadow() -> None:
    comparisons = Comparisons()
    assert comparisons.summary().compared == 0
    comparisons.add(slate(TEN), slate(("other", *TEN[:9]), release_id="first"))
    comparisons.failed()
    comparisons.dropped()
    summary = comparisons.summary()
    assert (summary.release_id, summary.compared) == ("first", 1)
    assert (summary.failed, summary.dropped) == (1, 1)
    assert summary.mean_overlap_10 == pytest.approx(0.9)
    comparisons.add(slate(TEN), slate(TEN, release_id="second"))
    summary = comparisons.summary()
    assert (summary.release_id, summary.compared, summary.failed) == ("second", 1, 0)
    assert summary.mean_overlap_10 == pytest.approx(1.0)


def test_summary_starts_afresh_with_another_served_release() -> None:
    comparisons = Comparisons()
    comparisons.add(slate(TEN), slate(TEN[::-1], release_id="shadow"))
    comparisons.add(slate(TEN, release_id="next"), slate(("other", *TEN[:9]), release_id="shadow"))
    summary = comparisons.summary()
    assert summary.compared == 1
    assert summary.mean_overlap_10 == pytest.approx(0.9)


def test_shadow_pods_on_two_releases_keep_each_others_comparisons() -> None:
    comparisons = Comparisons()
    for _ in range(5):
        for release_id in ("first", "second"):
            comparisons.add(slate(TEN), slate(TEN, release_id=release_id))
            summary = comparisons.summary()
            assert summary.release_id == release_id
    assert summary.compared == 5


def test_pairs_of_releases_of_long_ago_are_forgotten() -> None:
    comparisons = Comparisons()
    for release_id in ("first", "a", "b", "c", "d", "first"):
        comparisons.add(slate(TEN), slate(TEN, release_id=release_id))
    assert comparisons.summary().compared == 1
