"""What a candidate pod says of filters in its answers, and which requests it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.builders.catalogue import followed, upserted
from tests.builders.filters import condition, message
from tests.builders.recording import failure_of
from tests.builders.rpc import serving
from vireo.server.arrays import BoolArray
from vireo.server.candidate.service import CANDIDATE_POD, build_pipeline
from vireo.server.features.keys import video_key
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.filters.table import AttributeTable, mask_of
from vireo.server.recommend.retrieval import allowed
from vireo.server.rpc.caller import CALLER
from vireo.v1 import candidate_pb2, filter_pb2, rules_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub

VIDEOS = 40
METADATA = ((CALLER, "page"),)


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


@pytest.mark.parametrize("max_bytes", [0, 2 * 2000])
async def test_more_filters_than_are_kept_are_evaluated_once_and_off_the_event_loop(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    threads = []

    def mask(asked: FilterExpression, table: AttributeTable) -> BoolArray:
        threads.append(threading.get_ident())
        return mask_of(asked, table)

    monkeypatch.setattr(allowed, "mask_of", mask)
    monkeypatch.setattr(allowed, "_MAX_INLINE", VIDEOS - 1)
    live = followed(upserted(1, "new-0", tags=["cat"]))
    build = partial(build_pipeline, filter_cache_bytes=max_bytes, live=live)
    filters = [message(condition("tag", none_of=[f"{number}"])) for number in range(9)]
    rules = rules_pb2.SlateRules(
        filters=filters,
        boosts=[rules_pb2.Boost(filter=each, factor=2) for each in filters[5:]],
        counts=True,
    )
    async with serving(replace(CANDIDATE_POD, build=build), release_folder) as (_, channel):
        answer = await CandidateServiceStub(channel).RetrieveCandidates(
            request(message(condition("tag", any_of=["cat"])), rules=rules, explained_key=1)
        )
    assert list(answer.rules.boosted) == [len(answer.keys)] * 4
    assert list(answer.rules.forbidden) == [0] * 9
    assert len(threads) == 1 + len(filters)
    assert threading.get_ident() not in threads


async def test_an_explained_videos_labels_are_looked_up_off_the_event_loop(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, attributes_of = [], AttributeTable.attributes_of

    def looked_up(table: AttributeTable, row: int) -> tuple[set[str], dict[str, float]]:
        threads.append(threading.get_ident())
        return attributes_of(table, row)

    monkeypatch.setattr(AttributeTable, "attributes_of", looked_up)
    asked = request(message(condition("tag", any_of=["cat"])), explained_key=video_key("video-1"))
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        stub = CandidateServiceStub(channel)
        explained = (await stub.RetrieveCandidates(asked)).explained
        asked.explained_key = 1
        unknown = (await stub.RetrieveCandidates(asked)).explained
    assert explained.reason == "A filter forbids it: its tag is dog, and must be cat."
    assert unknown.lost_at == pb.LOST_AT_CATALOG
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(message(condition("genre", any_of=["a"]))), "filter.conditions[0].attribute"),
        (request(message()), "filter"),
        (request(None, session_keys=[1]), "session_weights"),
        (request(None, session_keys=[1], session_weights=[1.5]), "session_weights"),
        (request(None, session_keys=[1], session_weights=[float("nan")]), "session_weights"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_its_field(
    release_folder: Path, asked: candidate_pb2.RetrieveCandidatesRequest, field: str
) -> None:
    async with serving(CANDIDATE_POD, release_folder) as (server, channel):
        call = CandidateServiceStub(channel).RetrieveCandidates(asked, metadata=METADATA)
        failure = await failure_of(call)
        assert server.guard.budget.used("page") > 0.0005, "it costs more than a valid one"
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
