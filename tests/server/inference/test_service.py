"""The Open Inference Protocol on pods, asked through stubs of its contract."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.builders.busy import busy
from tests.builders.inference import golden, infer_request, output_of
from tests.builders.refusals import failure_of, refusal, violations_of
from tests.builders.rpc import rpc_settings, serving
from tests.builders.waiting import until
from vireo.inference import model_config_pb2
from vireo.inference import open_inference_pb2 as pb
from vireo.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True)
class Case:
    """A kind of pod and its model."""

    pod: Pod[Any]
    model: str
    golden: str
    output: str


RANKER = Case(RANKING_POD, "ranker", layout.GOLDEN_RANKER, "scores")
TOWER = Case(CANDIDATE_POD, "viewer_tower", layout.GOLDEN_VIEWER_TOWER, "viewer_vector")
CASES = pytest.mark.parametrize("case", [RANKER, TOWER], ids=["ranker", "tower"])


def stub_of(channel: grpc.aio.Channel) -> Any:
    """The stub; typed as Any, since its generated types are those of blocking channels."""
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
async def ranking(release_folder: Path) -> AsyncIterator[Any]:
    """A stub of a ranking pod."""
    async with serving(RANKING_POD, release_folder) as (_, channel):
        yield stub_of(channel)


def ranker_request(folder: Path, *, raw: bool = False, **fields: Any) -> pb.ModelInferRequest:
    return infer_request("ranker", golden(folder, RANKER.golden)[0], raw=raw, **fields)


@CASES
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_model_gives_its_golden_outputs_in_the_form_of_the_request(
    release_folder: Path, case: Case, *, raw: bool
) -> None:
    inputs, outputs = golden(release_folder, case.golden)
    async with serving(case.pod, release_folder) as (_, channel):
        request = infer_request(case.model, inputs, raw=raw, id="mine-7", model_version="1")
        answer = await stub_of(channel).ModelInfer(request)
    assert (answer.model_name, answer.model_version, answer.id) == (case.model, "1", "mine-7")
    assert answer.parameters["release_id"].string_param == "tiny-1"
    [output] = answer.outputs
    assert output.name == case.output
    assert len(answer.raw_output_contents) == (1 if raw else 0)
    assert output.HasField("contents") != raw
    wanted = outputs[case.output]
    assert output_of(answer).shape == wanted.shape
    assert np.abs(output_of(answer) - wanted).max() < layout.GOLDEN_TOLERANCE


@CASES
async def test_descriptions_equal_the_releases_triton_config(
    release_folder: Path, case: Case
) -> None:
    written = text_format.Parse(
        (release_folder / case.model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    async with serving(case.pod, release_folder) as (_, channel):
        stub = stub_of(channel)
        for version in ("", "1"):
            request = pb.ModelConfigRequest(name=case.model, version=version)
            assert (await stub.ModelConfig(request)).config == written
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name=case.model))
    for tensors, described in (
        (metadata.inputs, written.input),
        (metadata.outputs, written.output),
    ):
        assert [(each.name, f"TYPE_{each.datatype}", [*each.shape]) for each in tensors] == [
            (each.name, model_config_pb2.DataType.Name(each.data_type), [*each.dims])
            for each in described
        ]
    assert (metadata.name, [*metadata.versions], metadata.platform) == (
        case.model,
        ["1"],
        "onnxruntime_onnx",
    )


async def test_a_pod_names_vireo_and_says_ready_of_the_served_model_in_its_version_alone(
    ranking: Any,
) -> None:
    metadata = await ranking.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "vireo"
    assert re.fullmatch(r"\d+\.\d+.*", metadata.version)
    assert list(metadata.extensions) == ["model_configuration"]
    assert (await ranking.ServerLive(pb.ServerLiveRequest())).live
    assert (await ranking.ServerReady(pb.ServerReadyRequest())).ready
    for name, version, ready in (
        ("ranker", "", True),
        ("ranker", "1", True),
        ("ranker", "2", False),
        ("viewer_tower", "", False),
        ("", "", False),
    ):
        answer = await ranking.ModelReady(pb.ModelReadyRequest(name=name, version=version))
        assert answer.ready == ready, (name, version)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("viewer_tower", "", "there is no model 'viewer_tower' here, only 'ranker'"),
        ("", "", "there is no model '' here"),
        ("ranker", "2", "there is no version '2' of ranker, only '1'"),
    ],
)
async def test_another_model_or_version_is_not_found(
    ranking: Any, name: str, version: str, message: str
) -> None:
    for call in (
        ranking.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version)),
        ranking.ModelConfig(pb.ModelConfigRequest(name=name, version=version)),
        ranking.ModelInfer(pb.ModelInferRequest(model_name=name, model_version=version)),
    ):
        code, said = await refusal(call)
        assert code is grpc.StatusCode.NOT_FOUND
        assert message in said


async def test_a_pod_without_a_release_is_live_and_nothing_else() -> None:
    async with serving(RANKING_POD, None) as (_, channel):
        stub = stub_of(channel)
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="ranker"))).ready
        for call in (
            stub.ModelMetadata(pb.ModelMetadataRequest(name="ranker")),
            stub.ModelInfer(pb.ModelInferRequest(model_name="ranker")),
        ):
            code, said = await refusal(call)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "no release is loaded yet" in said


async def test_a_pod_that_drains_is_not_ready_and_still_answers(release_folder: Path) -> None:
    settings = rpc_settings(drain_seconds=600)
    async with serving(RANKING_POD, release_folder, settings=settings) as (server, channel):
        stub = stub_of(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        draining = asyncio.create_task(server.drain())
        await until(lambda: not server.serving)
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="ranker"))).ready
        assert (await stub.ModelInfer(ranker_request(release_folder))).outputs
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        server._settings = rpc_settings()  # so that the builder's own drain is short


async def test_all_that_is_wrong_is_listed_in_details(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder)
    request.inputs[7].datatype = "BYTES"
    request.inputs[3].datatype = "FP16"
    error = await failure_of(ranking.ModelInfer(request))
    assert [*violations_of(error)] == ["inputs[3].datatype", "inputs[7].datatype"]


async def test_values_of_another_field_or_given_twice_are_refused(
    release_folder: Path, ranking: Any
) -> None:
    typed, both = ranker_request(release_folder), ranker_request(release_folder, raw=True)
    typed.inputs[6].contents.Clear()
    typed.inputs[6].contents.fp64_contents.extend([0.0, 0.0])
    typed.inputs[4].contents.int_contents.append(0)  # besides those of the right field
    both.inputs[5].contents.int64_contents.append(2)
    said = ""
    for request in (typed, both):
        code, details = await refusal(ranking.ModelInfer(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        said += details
    for message in (
        "input 'viewer_features' of shape [1, 2] must have 2 values in fp32_contents, has 0",
        "input 'viewer_features' has fp64_contents; FP32 has fp32_contents",
        "inputs[4].contents.int_contents: input 'history_vectors' has int_contents; FP32 has fp32",
        "inputs[5].contents: input 'history_lengths' has contents",
    ):
        assert message in said


async def test_an_id_out_of_bounds_is_rejected_with_the_runtimes_error(
    release_folder: Path,
) -> None:
    inputs = golden(release_folder, TOWER.golden)[0]
    inputs["history"] = np.full_like(inputs["history"], 10**6)
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        request = infer_request("viewer_tower", inputs, raw=True)
        code, said = await refusal(stub_of(channel).ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.startswith("inputs: viewer_tower can't be run on these inputs: indices element out")


async def test_outputs_may_be_named_and_repeated(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder)
    for _ in range(2):
        request.outputs.add(name="scores")
    assert [output.name for output in (await ranking.ModelInfer(request)).outputs] == ["scores"]


def widened(folder: Path, batch: int, candidates: int, history: int) -> pb.ModelInferRequest:
    """Zeros for the ranker in the sizes given."""
    free = {5: candidates, 2: history}
    arrays = {}
    for name, array in golden(folder, RANKER.golden)[0].items():
        sizes = [batch, *(free[size] for size in array.shape[1:-1]), *array.shape[1:][-1:]]
        arrays[name] = np.zeros(sizes, array.dtype)
    return infer_request("ranker", arrays, raw=True)


async def test_as_much_is_taken_as_one_call_to_rank_may_ask_for(
    release_folder: Path, ranking: Any
) -> None:
    for sizes in ((1, 2000, 50), (32, 62, 50)):
        answer = await ranking.ModelInfer(widened(release_folder, *sizes))
        assert list(answer.outputs[0].shape) == [*sizes[:2], 2]
    for sizes, message in (
        ((1, 2001, 1), "size candidates of input 'candidate_vectors' is 2001, more than 2000"),
        ((33, 1, 1), "size batch of input 'candidate_vectors' is 33, more than 32"),
        ((32, 63, 50), "inputs: batch x candidates x history is 100800, more than 100000"),
    ):
        code, said = await refusal(ranking.ModelInfer(widened(release_folder, *sizes)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message in said


async def test_the_tower_accepts_histories_up_to_the_releases_limit(release_folder: Path) -> None:
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        for length, code in ((20, None), (21, grpc.StatusCode.INVALID_ARGUMENT)):
            inputs = golden(release_folder, TOWER.golden)[0]
            inputs |= {name: np.zeros((3, length), np.int64) for name in ("history", "gaps")}
            call = stub_of(channel).ModelInfer(infer_request("viewer_tower", inputs, raw=True))
            if code is None:
                assert (await call).outputs
            else:
                assert (await refusal(call))[0] is code


async def test_a_model_waits_in_the_pods_queue_and_is_shed_with_it(release_folder: Path) -> None:
    queue = RunQueue()
    async with serving(RANKING_POD, release_folder, queue=queue, max_calls=1) as (_, channel):
        stub = stub_of(channel)
        async with busy(queue):
            first = stub.ModelInfer(ranker_request(release_folder))
            await until(lambda: queue.queued == 2)
            code, _ = await refusal(stub.ModelInfer(ranker_request(release_folder)))
            assert (await stub.ServerReady(pb.ServerReadyRequest())).ready, "others don't wait"
            assert (await stub.ModelMetadata(pb.ModelMetadataRequest(name="ranker"))).inputs
        assert (await first).outputs
        assert (await stub.ModelInfer(ranker_request(release_folder))).outputs
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
