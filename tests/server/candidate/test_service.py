import asyncio
from dataclasses import replace
from pathlib import Path
from threading import Event, current_thread, main_thread

import grpc
import grpc.aio
import pytest

from tests.builders.catalogue import followed, upserted
from tests.builders.releases import build_release, poison_model
from tests.builders.rpc import serving
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.features.keys import video_key, video_keys
from vireo.server.recommend.filters.table import ForwardIndex
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.signals import SCORES, SOURCES
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub


def request(count: int, page_size: int, *watched: int) -> candidate_pb2.RetrieveCandidatesRequest:
    keys = video_keys([f"video-{row}" for row in watched]).tolist()
    return candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(
            history_keys=keys, history_times=range(len(keys)), watched_keys=keys
        ),
        count=count,
        page_size=page_size,
    )


async def test_answer_has_equal_columns_and_the_ids_of_its_first_page(release_folder: Path) -> None:
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        answer = await CandidateServiceStub(channel).RetrieveCandidates(request(20, 7, 3, 4))
    assert [column.name for column in answer.scores] == [score.name for score in SCORES]
    assert {len(column.values) for column in answer.scores} == {20} == {len(answer.source_masks)}
    assert all(any(column.values) for column in answer.scores)
    assert [video_key(video_id) for video_id in answer.ids] == list(answer.keys)[:7]
    assert answer.release_id == "tiny-1"
    assert [source.source for source in answer.sources] == [source.number for source in SOURCES]
    for source in answer.sources:
        having = sum(mask >> source.source & 1 for mask in answer.source_masks)
        assert source.proposed == having
        # The share of fresh videos is less than one place of twenty.
        assert having > 0 or source.source == viewer_pb2.SOURCE_FRESH


async def test_unknown_seed_is_not_found_and_named(release_folder: Path) -> None:
    asked = request(5, 5)
    asked.seed_key = 0
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CandidateServiceStub(channel).RetrieveCandidates(asked)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "seed_key 0 is not in release tiny-1"


async def test_labels_that_a_cap_counts_are_made_once_and_off_the_event_loop(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for, both_ask = list[str](), Event()
    made = list[tuple[str, bool]]()
    make, transposed = ForwardIndex.make, ForwardIndex._transposed

    def asked_to_make(self: ForwardIndex, attribute: str) -> object:
        asked_for.append(attribute)
        if len(asked_for) == 2:
            both_ask.set()
        return make(self, attribute)

    def recorded(self: ForwardIndex, attribute: str) -> object:
        made.append((attribute, current_thread() is main_thread()))
        assert both_ask.wait(20)
        return transposed(self, attribute)

    monkeypatch.setattr(ForwardIndex, "make", asked_to_make)
    monkeypatch.setattr(ForwardIndex, "_transposed", recorded)
    asked = request(20, 5, 3)
    for attribute in ("tag", "none such"):
        asked.rules.caps.add(attribute=attribute, max=2)
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        service = CandidateServiceStub(channel)
        answers = await asyncio.gather(*(service.RetrieveCandidates(asked) for _ in range(2)))
    assert made == [("tag", False)]
    for answer in answers:
        tags, unknown = answer.rules.labels
        assert any(tags.counts)
        assert not any(unknown.counts)


@pytest.mark.parametrize("with_log", [False, True])
async def test_failed_source_is_reported_on_the_wire(tmp_path: Path, with_log: bool) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.VIEWER_TOWER, "bias")
    live = followed(upserted(1, "new", tags=["cat"])) if with_log else None
    # Built without its goldens, which would refuse it.
    pod = replace(
        CANDIDATE_POD, build=lambda path: CandidatePipeline(CandidateRelease.load(path, live=live))
    )
    async with serving(pod, folder) as (_, channel):
        answer = await CandidateServiceStub(channel).RetrieveCandidates(request(20, 5, 3))
    assert len(answer.keys) == 20
    assert "viewer_tower gave a value that isn't finite" in answer.sources[0].failure
    failed = {source.source for source in answer.sources if source.failure}
    assert failed == {viewer_pb2.SOURCE_TWO_TOWER, viewer_pb2.SOURCE_FRESH}, "both need the tower"
