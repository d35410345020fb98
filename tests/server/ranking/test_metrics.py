from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from tests.builders.columns import request_for_one_video
from tests.builders.rpc import serving
from vireo.server.ranking.service import RANKING_POD
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

NAMES = (
    "vireo_ranking_score_count",
    "vireo_ranking_score_sum",
    "vireo_predicted_watch_count",
    "vireo_predicted_watch_sum",
)


def values() -> list[float]:
    return [REGISTRY.get_sample_value(name) or 0.0 for name in NAMES]


async def test_what_is_predicted_for_a_page_is_counted(release_folder: Path) -> None:
    before = values()
    async with serving(RANKING_POD, release_folder) as (_, channel):
        answer = await RankingServiceStub(channel).RankCandidates(request_for_one_video())
    scores, score, pages, watch = (
        after - first for after, first in zip(values(), before, strict=True)
    )
    assert (scores, pages) == (1, 1)
    assert score == pytest.approx(answer.scores[0])
    [predicted] = [each.values[0] for each in answer.task_scores if each.name == "watch"]
    assert watch == pytest.approx(predicted)
