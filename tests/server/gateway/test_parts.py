"""The gateway's pure parts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from vireo.server.features.context import UNKNOWN
from vireo.server.gateway.pods import retrieve_request
from vireo.server.gateway.query import ANSWER_SECONDS, BUCKETS, RecommendQuery, viewer_bucket
from vireo.server.gateway.release import PopularList
from vireo.server.gateway.slate import ranked_slate, sources_of
from vireo.server.pod.viewer import decode_viewer
from vireo.server.releases.manifest import ReleaseError
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb


def query(**fields: object) -> RecommendQuery:
    request = pb.RecommendRequest(viewer_id="1", **fields)  # type: ignore[arg-type]
    return RecommendQuery.of(request, "id", 100.0)


def test_the_models_read_the_requests_time_or_now() -> None:
    before = int(time.time())
    asked = query(context={"time": {"seconds": 900, "nanos": 999_999_999}})
    assert asked.asked_at == 900
    assert query(context={"time": {"seconds": -5}}).asked_at == 0
    assert before <= query(context={"device": "tv"}).asked_at <= time.time()


def test_the_context_reaches_both_pods_as_ids() -> None:
    timed = {"time": {"seconds": 900}}
    asked = query(context={**timed, "time_zone": "+02:00", "device": "TV", "locale": "de-CH"})
    known = viewer_pb2.ViewerFeatures(history_keys=[7], history_times=[800])
    message = retrieve_request(asked, known, 10, "")
    assert decode_viewer(message.viewer).asked_at == 900
    assert decode_viewer(message.viewer).context == asked.context == (3, 4, 3, 83)
    assert query(context=timed).context == UNKNOWN


def test_a_budget_is_the_stages_timeout_or_its_share_of_the_remaining_time() -> None:
    until_100 = query()
    assert until_100.budget(50, 0.5, 0.5) == 0.5
    assert until_100.budget(90, 100, 0.5) == pytest.approx(0.5 * (10 - ANSWER_SECONDS))
    assert until_100.budget(100, 100) == 0
    assert until_100.budget(101, 100) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "has 0 videos instead of 1"),
        ([{"labels": ["tag=x"]}], "can't be read: 0.numbers: Field required"),
    ],
)
def test_popular_attributes_of_another_form_are_refused(
    content: object, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "popular.json").write_text(json.dumps(["a"]))
    (tmp_path / "popular_attributes.json").write_text(json.dumps(content))
    with pytest.raises(ReleaseError, match=rf"popular_attributes\.json: {reason}"):
        PopularList.load(tmp_path)


def test_a_mask_names_its_sources_and_ignores_bits_of_later_builds() -> None:
    assert sources_of(0) == ()
    assert sources_of(0b1010) == (1, 3)
    assert sources_of(1 << 31 | 0b100) == (2,)


def test_videos_that_the_ranking_pod_cannot_name_give_way_to_those_that_the_candidate_pod_has() -> (
    None
):
    ranked = ranking_pb2.RankCandidatesResponse(
        keys=[1, 8, 9],
        ids=["a", "", ""],
        scores=[0.3, 0, 0],
        task_scores=[
            viewer_pb2.ScoreColumn(name="watch", values=[0.3, 0, 0]),
            viewer_pb2.ScoreColumn(name="like", values=[0.5, 0, 0]),
            viewer_pb2.ScoreColumn(name="of a later build", values=[0.5, 0, 0]),
        ],
        source_masks=[2, 2, 2],
    )
    candidates = candidate_pb2.RetrieveCandidatesResponse(
        keys=[3, 1, 2, 8, 9], ids=["c", "a", "b"], source_masks=[2, 2, 8, 2, 2]
    )
    items = ranked_slate(ranked, candidates).items
    assert [(item.video_id, item.position) for item in items] == [("a", 1), ("c", 2), ("b", 3)]
    assert [item.score for item in items] == pytest.approx([0.3, 0, 0])
    assert [list(item.sources) for item in items] == [[1], [1], [3]]
    assert [item.HasField("task_scores") for item in items] == [True, False, False]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_share_of_the_buckets_holds_that_share_of_the_viewers(share: float) -> None:
    buckets = np.array([viewer_bucket(f"viewer-{number}") for number in range(10_000)])
    assert buckets.min() >= 0
    assert buckets.max() < BUCKETS
    assert (buckets < share * BUCKETS).mean() == pytest.approx(share, abs=0.01)


def test_a_viewer_stays_in_its_bucket_for_ever() -> None:
    # Were these to change, every viewer of a running canary could change sides.
    found = [viewer_bucket(name) for name in ("1", "viewer-1", "a/b é?")]
    assert found == [9311, 6410, 2542]
