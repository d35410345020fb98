from __future__ import annotations

import pytest

from vireo.server.gateway.shadow import Comparisons, Slate
from vireo.v1.recommendation_pb2 import RecommendResponse, SlateItem
from vireo.v1.release_pb2 import ShadowComparison

TEN = tuple(f"video-{number}" for number in range(10))


def slate(
    ids: tuple[str, ...] = TEN, score: float = 0.5, seconds: float = 0.1, release_id: str = "served"
) -> Slate:
    items = [SlateItem(video_id=each, score=score) for each in ids]
    return Slate(RecommendResponse(release_id=release_id, items=items), seconds)


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


def test_a_summary_is_of_one_release_of_either_pool() -> None:
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


def test_shadow_pods_on_two_releases_keep_each_others_comparisons_and_few_others() -> None:
    comparisons = Comparisons()
    for _ in range(5):
        for release_id in ("first", "second"):
            comparisons.add(slate(), slate(release_id=release_id))
            assert comparisons.summary().release_id == release_id
    assert comparisons.summary().compared == 5
    for release_id in ("a", "b", "c", "d", "first"):
        comparisons.add(slate(), slate(release_id=release_id))
    assert comparisons.summary().compared == 1, "that of long ago is forgotten"


def test_a_pair_that_comes_back_later_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vireo.server.gateway.shadow._KEPT_SECONDS", 0.0)
    comparisons = Comparisons()
    for _ in range(2):
        comparisons.add(slate(), slate(release_id="first"))
        assert comparisons.summary().compared == 1
