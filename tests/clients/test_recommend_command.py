"""What `vireo recommend` prints of an answer."""

from __future__ import annotations

import pytest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

from clients.cli.recommend import print_slate


def test_a_slate_names_the_sources_of_each_video_and_their_counts(
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


@pytest.mark.parametrize("degradation", [each for each in viewer_pb2.Degradation.values() if each])
def test_every_degradation_is_printed(
    degradation: viewer_pb2.Degradation.ValueType, capsys: pytest.CaptureFixture[str]
) -> None:
    print_slate(pb.RecommendResponse(degradations=[degradation]))
    name = viewer_pb2.Degradation.Name(degradation).removeprefix("DEGRADATION_")
    assert f"degraded: {name.lower().replace('_', ' ')}" in capsys.readouterr().out


def test_an_unknown_degradation_is_printed_by_its_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = pb.RecommendResponse.FromString(b"\x22\x01\x63")  # degradations: 99
    print_slate(answer)
    assert "degraded: unknown kind 99" in capsys.readouterr().out


def test_a_viewer_whose_features_could_not_be_read_is_no_cold_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_slate(pb.RecommendResponse())
    assert "a cold start" in capsys.readouterr().out
    print_slate(pb.RecommendResponse(degradations=[viewer_pb2.DEGRADATION_FEATURES_MISSING]))
    assert "a cold start" not in capsys.readouterr().out
