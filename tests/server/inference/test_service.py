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
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from tests.builders.busy import busy
from tests.builders.inference import golden, infer_request, output_of
from tests.builders.releases import VECTOR_SIZE, build_release, poison_model
from tests.builders.rpc import rpc_settings, serving
from tests.builders.waiting import until
from vireo.inference import open_inference_pb2 as pb
from vireo.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

SERVICE = "inference.GRPCInferenceService"
Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor


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


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """The code and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def place_of(request: pb.ModelInferRequest, name: str) -> int:
    return [tensor.name for tensor in request.inputs].index(name)


@CASES
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_model_gives_its_golden_outputs_in_the_form_of_the_request(
    release_folder: Path, case: Case, *, raw: bool
) -> None:
    inputs, outputs = golden(release_folder, case.golden)
    async with serving(case.pod, release_folder) as (_, channel):
        answer = await stub_of(channel).ModelInfer(infer_request(case.model, inputs, raw=raw))
    [output] = answer.outputs
    assert output.name == case.output
    assert len(answer.raw_output_contents) == (1 if raw else 0)
    assert output.HasField("contents") != raw
    wanted = outputs[case.output]
    assert output_of(answer).shape == wanted.shape
    assert np.abs(output_of(answer) - wanted).max() < layout.GOLDEN_TOLERANCE


async def test_a_response_has_model_version_id_and_release(
    release_folder: Path, ranking: Any
) -> None:
    request = ranker_request(release_folder, id="mine-7", model_version="1")
    answer = await ranking.ModelInfer(request)
    assert (answer.model_name, answer.model_version, answer.id) == ("ranker", "1", "mine-7")
    assert answer.parameters["release_id"].string_param == "tiny-1"


@CASES
async def test_metadata_equals_the_releases_triton_config(release_folder: Path, case: Case) -> None:
    async with serving(case.pod, release_folder) as (_, channel):
        metadata = await stub_of(channel).ModelMetadata(pb.ModelMetadataRequest(name=case.model))
    config = (release_folder / case.model / "config.pbtxt").read_text()
    blocks = re.findall(
        r'(input|output) \{\s+name: "(\w+)"\s+data_type: TYPE_(\w+)\s+dims: \[(.*?)\]', config
    )
    assert [
        (kind, tensor.name, tensor.datatype, list(tensor.shape))
        for kind, tensors in (("input", metadata.inputs), ("output", metadata.outputs))
        for tensor in tensors
    ] == [
        (kind, name, datatype, [int(size) for size in sizes.split(",")])
        for kind, name, datatype, sizes in blocks
    ]
    assert (metadata.name, list(metadata.versions), metadata.platform) == (
        case.model,
        ["1"],
        "onnxruntime_onnx",
    )


async def test_server_metadata_names_vireo(ranking: Any) -> None:
    metadata = await ranking.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "vireo"
    assert re.fullmatch(r"\d+\.\d+.*", metadata.version)
    assert list(metadata.extensions) == ["model_configuration"]


async def test_ready_is_said_of_the_served_model_in_its_version_alone(ranking: Any) -> None:
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
        ("ranker", "tiny-1", "there is no version 'tiny-1'"),
    ],
)
async def test_another_model_or_version_is_not_found(
    ranking: Any, name: str, version: str, message: str
) -> None:
    asked = pb.ModelMetadataRequest(name=name, version=version)
    infer = pb.ModelInferRequest(model_name=name, model_version=version)
    for call in (ranking.ModelMetadata(asked), ranking.ModelInfer(infer)):
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
        draining = asyncio.create_task(server.drain())
        await until(lambda: not server.serving)
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="ranker"))).ready
        assert (await stub.ModelInfer(ranker_request(release_folder))).outputs
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        server._settings = rpc_settings()  # so that the builder's own drain is short


async def test_after_that_new_calls_are_refused_and_those_under_way_answered(
    release_folder: Path,
) -> None:
    queue = RunQueue()
    request = ranker_request(release_folder)
    async with serving(RANKING_POD, release_folder, queue=queue) as (server, channel):
        stub = stub_of(channel)
        async with busy(queue):
            under_way = asyncio.ensure_future(stub.ModelInfer(request))
            await until(lambda: queue.queued == 2)
            draining = asyncio.create_task(server.drain())

            async def late() -> tuple[grpc.StatusCode, str]:
                return await refusal(stub.ModelInfer(request, timeout=0.5))

            async with asyncio.timeout(60):
                while (refused := await late())[0] is not grpc.StatusCode.UNAVAILABLE:
                    pass  # the drain begins
        assert (await under_way).outputs
        await draining
    assert refused == (grpc.StatusCode.UNAVAILABLE, "this server shuts down; retry on another one")


def rename(request: pb.ModelInferRequest, name: str, new: str) -> None:
    request.inputs[place_of(request, name)].name = new


def retype(request: pb.ModelInferRequest, name: str, datatype: str) -> None:
    request.inputs[place_of(request, name)].datatype = datatype


def reshape(request: pb.ModelInferRequest, name: str, *shape: int) -> None:
    request.inputs[place_of(request, name)].shape[:] = shape


def drop(request: pb.ModelInferRequest, name: str) -> None:
    place = place_of(request, name)
    del request.inputs[place]
    if request.raw_input_contents:
        del request.raw_input_contents[place]


def repeat(request: pb.ModelInferRequest, name: str) -> None:
    place = place_of(request, name)
    request.inputs.append(request.inputs[place])
    if request.raw_input_contents:
        request.raw_input_contents.append(request.raw_input_contents[place])


WRONG: list[tuple[Any, list[str]]] = [
    (
        lambda request: rename(request, "attributes", "mood"),
        [
            "inputs[7].name: ranker has no input 'mood'",
            "inputs: input 'attributes' is missing; it is INT64 of sizes [batch, 16]",
        ],
    ),
    (
        lambda request: drop(request, "viewer_features"),
        ["inputs: input 'viewer_features' is missing; it is FP32 of sizes [batch, 2]"],
    ),
    (
        lambda request: repeat(request, "attributes"),
        ["inputs[8].name: input 'attributes' is given twice"],
    ),
    (
        lambda request: retype(request, "attributes", "INT32"),
        ["inputs[7].datatype: input 'attributes' must be INT64, is 'INT32'"],
    ),
    (
        lambda request: retype(request, "history_vectors", ""),
        ["inputs[4].datatype: input 'history_vectors' must be FP32, is ''"],
    ),
    (
        lambda request: reshape(request, "history_vectors", 1, 2, VECTOR_SIZE + 1),
        [
            "inputs[4].shape: input 'history_vectors' must have sizes [batch, history, 8], "
            "each 1 or more, has [1, 2, 9]"
        ],
    ),
    (
        lambda request: reshape(request, "history_vectors", 2, VECTOR_SIZE),
        [
            "inputs[4].shape: input 'history_vectors' must have sizes [batch, history, 8], "
            "has 2 sizes"
        ],
    ),
    (
        lambda request: reshape(request, "history_vectors", 1, 0, VECTOR_SIZE),
        ["inputs[4].shape: input 'history_vectors'", "has [1, 0, 8]"],
    ),
    (
        lambda request: reshape(request, "history_vectors", 1, -1, VECTOR_SIZE),
        ["inputs[4].shape: input 'history_vectors'", "has [1, -1, 8]"],
    ),
    (
        lambda request: reshape(request, "attributes"),
        ["inputs[7].shape: input 'attributes' must have sizes [batch, 16], has 0 sizes"],
    ),
    (
        lambda request: reshape(request, "match_features", 1, 4, 1),
        [
            "inputs[3].shape: size candidates of input 'match_features' is 4, "
            "of input 'candidate_vectors' it is 5"
        ],
    ),
    (
        lambda request: reshape(request, "history_vectors", 1, 51, VECTOR_SIZE),
        ["inputs[4].shape: size history of input 'history_vectors' is 51, more than 50"],
    ),
    (
        lambda request: reshape(request, "history_vectors", 1, 2**62, VECTOR_SIZE),
        [f"size history of input 'history_vectors' is {2**62}, more than 50"],
    ),
    (
        lambda request: request.outputs.add(name="vectors"),
        ["outputs[0].name: ranker has no output 'vectors', only 'scores'"],
    ),
    (
        lambda request: (
            request.outputs.add(name="scores")
            .parameters["classification"]
            .MergeFrom(pb.InferParameter(int64_param=3))
        ),
        ["outputs[0].parameters: 'scores' has classification, which isn't supported here"],
    ),
    (
        lambda request: (
            request.inputs[3]
            .parameters["shared_memory_region"]
            .MergeFrom(pb.InferParameter(string_param="mine"))
        ),
        ["inputs[3].parameters: 'match_features' has shared_memory_region"],
    ),
]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(("spoil", "messages"), WRONG)
async def test_invalid_inputs_are_rejected_by_name(
    release_folder: Path, ranking: Any, spoil: Any, messages: list[str], *, raw: bool
) -> None:
    request = ranker_request(release_folder, raw=raw)
    spoil(request)
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    for message in messages:
        assert message in said


async def test_all_that_is_wrong_is_listed_in_details(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder)
    retype(request, "attributes", "BYTES")
    retype(request, "match_features", "FP16")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranking.ModelInfer(request)
    packed = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    bad = error_details_pb2.BadRequest()
    [detail] = status_pb2.Status.FromString(packed).details
    assert detail.Unpack(bad)
    fields = [violation.field for violation in bad.field_violations]
    assert fields == ["inputs[3].datatype", "inputs[7].datatype"]


async def test_values_of_another_number_or_field_are_refused(
    release_folder: Path, ranking: Any
) -> None:
    request = ranker_request(release_folder)
    request.inputs[3].contents.fp32_contents.append(1.0)
    request.inputs[7].contents.int64_contents.pop()
    request.inputs[6].contents.Clear()
    request.inputs[6].contents.fp64_contents.extend([0.0, 0.0])
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    for message in (
        "input 'match_features' of shape [1, 5, 1] must have 5 values, has 6",
        "input 'attributes' of shape [1, 16] must have 16 values, has 15",
        "input 'viewer_features' has fp64_contents; FP32 has fp32_contents",
        "input 'viewer_features' of shape [1, 2] must have 2 values, has 0",
    ):
        assert message in said


async def test_raw_values_of_another_length_are_refused(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder, raw=True)
    request.raw_input_contents[3] += b"\0"
    request.raw_input_contents[7] = b""
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "raw_input_contents[3]: input 'match_features' of shape [1, 5, 1] must have 20" in said
    assert "bytes, has 21" in said
    assert "raw_input_contents[7]: input 'attributes'" in said
    del request.raw_input_contents[5:]
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said == "raw_input_contents: must have one item for each of the 8 inputs, has 5"


async def test_values_both_raw_and_typed_are_refused(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder, raw=True)
    request.inputs[5].contents.int64_contents.append(2)
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[5].contents: input 'history_lengths' has contents" in said


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_values_that_are_not_finite_are_refused(
    release_folder: Path, ranking: Any, value: float, *, raw: bool
) -> None:
    inputs = golden(release_folder, RANKER.golden)[0]
    inputs["match_features"] = np.full((1, 5, 1), value, np.float32)
    code, said = await refusal(ranking.ModelInfer(infer_request("ranker", inputs, raw=raw)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said == "inputs[3]: every value of input 'match_features' must be finite"


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


async def test_an_answer_that_is_not_finite_is_a_failed_precondition(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.RANKER, "video")
    async with serving(RANKING_POD, folder) as (_, channel):
        code, said = await refusal(stub_of(channel).ModelInfer(ranker_request(folder)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert said.startswith("ranker gave a value that isn't finite for these inputs")


async def test_outputs_may_be_named_and_repeated(release_folder: Path, ranking: Any) -> None:
    request = ranker_request(release_folder)
    for _ in range(2):
        request.outputs.add(name="scores")
    assert [output.name for output in (await ranking.ModelInfer(request)).outputs] == ["scores"]


async def test_inputs_may_come_in_any_order(release_folder: Path, ranking: Any) -> None:
    inputs, outputs = golden(release_folder, RANKER.golden)
    backwards = dict(reversed(inputs.items()))
    answer = await ranking.ModelInfer(infer_request("ranker", backwards, raw=True))
    assert np.abs(output_of(answer) - outputs["scores"]).max() < layout.GOLDEN_TOLERANCE


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


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            pb.ModelInferRequest(inputs=[Input()] * 65),
            "inputs: must contain no more than 64 item(s)",
        ),
        (
            pb.ModelInferRequest(raw_input_contents=[b""] * 65),
            "raw_input_contents: must contain no more than 64 item(s)",
        ),
        (pb.ModelInferRequest(inputs=[Input(shape=[1] * 65)]), "inputs[0].shape"),
        (pb.ModelInferRequest(model_name="x" * 257), "model_name: must be at most 256 bytes"),
        (pb.ModelInferRequest(inputs=[Input(name="x" * 257)]), "inputs[0].name"),
        (
            pb.ModelInferRequest(
                parameters={str(n): pb.InferParameter(bool_param=True) for n in range(65)}
            ),
            "parameters: map must be at most 64 entries",
        ),
    ],
)
async def test_more_than_any_model_needs_is_refused_by_the_contract(
    ranking: Any, request_: pb.ModelInferRequest, message: str
) -> None:
    code, said = await refusal(ranking.ModelInfer(request_))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in said


async def test_errors_fit_into_trailers_for_any_names(ranking: Any) -> None:
    names = ["\N{PILE OF POO}" * 64, *("\u202e" * 85 for _ in range(31))]
    request = pb.ModelInferRequest(
        model_name="ranker",
        inputs=[Input(name=name) for name in names],
        outputs=[Output(name=name) for name in names],
    )
    code, said = await refusal(ranking.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "ranker has no input '\\U0001f4a9" in said


async def test_bytes_that_are_no_message_are_invalid(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        method: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        code, said = await refusal(method(b"\xff\xff\xff\xff not a message"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request can't be parsed" in said


async def test_calls_have_request_ids_and_are_counted(release_folder: Path, ranking: Any) -> None:
    def count(code: str) -> float:
        labels = {"method": f"/{SERVICE}/ModelInfer", "code": code}
        return REGISTRY.get_sample_value("vireo_rpcs_total", labels) or 0.0

    before = count("OK"), count("NOT_FOUND")
    metadata = (("x-request-id", "caller-7"),)
    call = ranking.ModelInfer(ranker_request(release_folder), metadata=metadata)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "caller-7"
    await refusal(ranking.ModelInfer(pb.ModelInferRequest(model_name="x"), metadata=metadata))
    assert (count("OK"), count("NOT_FOUND")) == (before[0] + 1, before[1] + 1)


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


async def test_health_and_reflection_know_the_service(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        listed, described = [
            answer async for answer in reflection.ServerReflectionInfo(iter(asked))
        ]
    assert SERVICE in {service.name for service in listed.list_services_response.service}
    assert described.file_descriptor_response.file_descriptor_proto
