"""What `vireo recommend` prints of an answer."""

from __future__ import annotations

import pytest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

from clients.cli.recommend import print_slate


def test_a_slate_names_the_sources_of_each_video_and_what_each_proposed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    item = pb.SlateItem(
        video_id="7",
        position=1,
        score=0.5,
        sources=[viewer_pb2.SOURCE_EASE, viewer_pb2.SOURCE_FRESH],
    )
    reports = [
        pb.SourceReport(source=viewer_pb2.SOURCE_TWO_TOWER, proposed=300),
        pb.SourceReport(source=viewer_pb2.SOURCE_EASE, proposed=45),
    ]
    explanation = pb.Explanation(sources=reports, candidates=300, history_length=3)
    print_slate(pb.RecommendResponse(items=[item], explanation=explanation))
    printed = capsys.readouterr().out
    assert "ease, fresh" in printed
    assert "proposed by: two tower 300, ease 45" in printed


def test_a_slate_without_candidates_says_nothing_of_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_slate(pb.RecommendResponse(degradations=[viewer_pb2.DEGRADATION_POPULAR_FALLBACK]))
    printed = capsys.readouterr().out
    assert "proposed by" not in printed
    assert "degraded: popular fallback" in printed
