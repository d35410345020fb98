"""What the ranking service makes of a request."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.builders.columns import request_for_one_video
from tests.builders.rpc import serving
from tests.builders.samples import Grown
from vireo.server.ranking.service import RANKING_POD, decode
from vireo.server.rpc.errors import RpcError
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub


def test_source_masks_that_differ_from_the_keys_in_number_are_refused_by_name() -> None:
    request = ranking_pb2.RankCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(),
        keys=[1, 2],
        scores=[viewer_pb2.ScoreColumn(name="two_tower", values=[0.5, 0.25])],
        source_masks=[2],
        page_size=1,
    )
    with pytest.raises(RpcError, match=r"^source_masks: ") as refused:
        decode(request)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    request.source_masks.append(2)
    assert decode(request).source_masks.tolist() == [2, 2]


NAMES = (
    "vireo_ranking_score_count",
    "vireo_ranking_score_sum",
    "vireo_predicted_watch_count",
    "vireo_predicted_watch_sum",
)


async def test_what_is_predicted_for_a_page_is_counted(release_folder: Path, grown: Grown) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        answer = await RankingServiceStub(channel).RankCandidates(request_for_one_video())
    scores, score, pages, watch = map(grown, NAMES)
    assert (scores, pages) == (1, 1)
    assert score == pytest.approx(answer.scores[0])
    [predicted] = [each.values[0] for each in answer.task_scores if each.name == "watch"]
    assert watch == pytest.approx(predicted)
