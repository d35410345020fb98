"""The calls that Triton's tools make before they measure: configuration, statistics, index."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import text_format
from inference import model_config_pb2
from inference import open_inference_pb2 as pb
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

from server.candidate.service import CANDIDATE_POD
from server.pod.pod import Pod
from server.ranking.service import RANKING_POD
from server.releases import layout
from tests.builders.inference import golden, infer_request
from tests.builders.rpc import serving


def stub_of(channel: grpc.aio.Channel) -> Any:
    """The stub; typed as Any, since its generated types are those of blocking channels."""
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
async def ranking(release_folder: Path) -> AsyncIterator[Any]:
    """A stub of a ranking pod."""
    async with serving(RANKING_POD, release_folder) as (_, channel):
        yield stub_of(channel)


def ranker_request(folder: Path, *, raw: bool) -> pb.ModelInferRequest:
    return infer_request("ranker", golden(folder, layout.GOLDEN_RANKER)[0], raw=raw)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """The code and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize(
    ("pod", "model"), [(RANKING_POD, "ranker"), (CANDIDATE_POD, "viewer_tower")]
)
async def test_the_configuration_equals_the_releases_triton_config(
    release_folder: Path, pod: Pod[Any], model: str
) -> None:
    written = text_format.Parse(
        (release_folder / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    async with serving(pod, release_folder) as (_, channel):
        stub = stub_of(channel)
        for version in ("", "1"):
            request = pb.ModelConfigRequest(name=model, version=version)
            assert (await stub.ModelConfig(request)).config == written


@pytest.mark.parametrize("method", ["ModelConfig", "ModelStatistics", "ModelMetadata"])
async def test_an_unknown_model_or_version_has_no_description(ranking: Any, method: str) -> None:
    kind = getattr(pb, f"{method}Request")
    for name, version in (("viewer_tower", ""), ("ranker", "2"), ("\0", "")):
        code, _ = await refusal(getattr(ranking, method)(kind(name=name, version=version)))
        assert code is grpc.StatusCode.NOT_FOUND
    code, message = await refusal(getattr(ranking, method)(kind(name="x" * 257)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("name: ")


async def test_statistics_count_the_calls_of_a_pod_and_their_steps(
    release_folder: Path, ranking: Any
) -> None:
    [none] = (await ranking.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert (none.name, none.version, none.last_inference) == ("ranker", "1", 0)
    assert none.inference_stats.cache_miss == pb.StatisticDuration()
    began = time.time()
    for raw in (True, False, True):
        await ranking.ModelInfer(ranker_request(release_folder, raw=raw))
    await refusal(ranking.ModelInfer(pb.ModelInferRequest(model_name="ranker")))
    await refusal(ranking.ModelInfer(pb.ModelInferRequest(model_name="other")))
    [found] = (
        await ranking.ModelStatistics(pb.ModelStatisticsRequest(name="ranker", version="1"))
    ).model_stats
    assert (found.inference_count, found.execution_count) == (3, 3)
    assert found.last_inference >= round(began * 1000)
    durations = found.inference_stats
    steps = [
        durations.queue,
        durations.compute_input,
        durations.compute_infer,
        durations.compute_output,
    ]
    assert [each.count for each in (durations.success, durations.fail, *steps)] == [
        3,
        1,
        3,
        3,
        3,
        3,
    ]
    assert min(each.ns for each in (durations.fail, *steps)) > 0
    assert sum(each.ns for each in steps) <= durations.success.ns


async def test_the_index_lists_the_pods_model_once_it_is_served(
    release_folder: Path, ranking: Any
) -> None:
    for ready in (True, False):
        index = await ranking.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready))
        [model] = index.models
        assert (model.name, model.version, model.state, model.reason) == (
            "ranker",
            "1",
            "READY",
            "",
        )
    async with serving(RANKING_POD, None) as (_, channel):
        index = await stub_of(channel).RepositoryIndex(pb.RepositoryIndexRequest())
        assert not index.models
    async with serving(RANKING_POD, release_folder) as (server, channel):
        await server.set_serving(False)
        stub = stub_of(channel)
        [model] = (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models
        assert (model.state, model.reason) == ("UNAVAILABLE", "the pod doesn't serve")
        assert not (await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))).models
