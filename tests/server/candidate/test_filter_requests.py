"""What a candidate pod says of filters in its answers, and which requests it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from vireo.v1 import candidate_pb2, filter_pb2, viewer_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub

from server.candidate.service import CANDIDATE_POD
from tests.builders.filters import condition, message
from tests.builders.releases import build_release
from tests.builders.rpc import serving

VIDEOS = 40


def request(
    asked: filter_pb2.Filter | None, **more: Any
) -> candidate_pb2.RetrieveCandidatesRequest:
    return candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(), count=VIDEOS, page_size=VIDEOS, filter=asked, **more
    )


async def test_an_answer_says_that_it_was_filtered(release_folder: Path) -> None:
    asked = message(condition("tag", any_of=["cat"]))
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        stub = CandidateServiceStub(channel)
        answer = await stub.RetrieveCandidates(request(asked))
        plain = await stub.RetrieveCandidates(request(None))
    assert set(answer.ids) == {f"video-{row}" for row in range(VIDEOS) if row % 3 == 0}
    assert answer.filtered
    assert answer.filter_share == pytest.approx(14 / VIDEOS)
    assert (plain.filtered, plain.filter_share) == (False, 1.0)


@pytest.mark.parametrize(
    ("prepare", "asked", "field"),
    [
        (
            lambda _: None,
            request(message(condition("genre", any_of=["a"]))),
            "filter.conditions[0].attribute",
        ),
        (lambda _: None, request(message()), "filter"),
        (lambda _: None, request(None, session_keys=[1]), "session_weights"),
        (
            lambda _: None,
            request(None, session_keys=[1], session_weights=[1.5]),
            "session_weights",
        ),
        (
            lambda _: None,
            request(None, session_keys=[1], session_weights=[float("nan")]),
            "session_weights",
        ),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_its_field(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    asked: candidate_pb2.RetrieveCandidatesRequest,
    field: str,
) -> None:
    folder = build_release(tmp_path)
    prepare(folder)
    async with serving(CANDIDATE_POD, folder) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CandidateServiceStub(channel).RetrieveCandidates(asked)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)  # type: ignore[no-untyped-call]
    assert status is not None
    details = error_details_pb2.BadRequest()
    status.details[0].Unpack(details)
    assert [each.field for each in details.field_violations] == [field]
