"""What the ranking service makes of a request."""

from __future__ import annotations

import grpc
import pytest

from vireo.server.ranking.service import decode
from vireo.server.rpc.errors import RpcError
from vireo.v1 import ranking_pb2, viewer_pb2


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
