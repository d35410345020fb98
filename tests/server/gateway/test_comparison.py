from __future__ import annotations

import pytest

from vireo.server.gateway.shadow import Comparisons, Slate
from vireo.v1.release_pb2 import ShadowComparison

TEN = tuple(f"video-{number}" for number in range(10))


def slate(
    ids: tuple[str, ...] = TEN, score: float = 0.5, seconds: float = 0.1, release_id: str = "served"
) -> Slate:
    return Slate(release_id, ids, (score,) * len(ids), seconds)


def compared(*shadows: Slate) -> ShadowComparison:
    comparisons = Comparisons()
    for shadow in shadows:
        comparisons.add(slate(), shadow)
    return comparisons.summary()


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
    assert compared(slate(shadow)).mean_overlap_10 == pytest.approx(overlap)


def test_score_shift_and_latencies_compare_shadow_with_served() -> None:
    summary = compared(slate(score=0.75, seconds=0.3))
    assert summary.mean_score_shift == pytest.approx(0.25)
    assert [each.nanos for each in (summary.served_time, summary.shadow_time)] == [10**8, 3 * 10**8]


def test_a_summary_starts_afresh_with_another_release_of_either_pool() -> None:
    comparisons = Comparisons()
    assert comparisons.summary().compared == 0
    comparisons.add(slate(), slate(("other", *TEN[:9]), release_id="first"))
    comparisons.failed()
    comparisons.dropped()
    summary = comparisons.summary()
    assert (summary.release_id, summary.compared) == ("first", 1)
    assert (summary.failed, summary.dropped) == (1, 1)
    for served, shadow in (("served", "second"), ("next", "second")):
        comparisons.add(slate(release_id=served), slate(release_id=shadow))
        summary = comparisons.summary()
        assert (summary.release_id, summary.compared, summary.failed) == ("second", 1, 0)
        assert summary.mean_overlap_10 == pytest.approx(1.0)
