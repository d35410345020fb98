"""The calls that Triton's tools make before they measure: the configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import text_format

from tests.builders.inference import golden, infer_request
from tests.builders.rpc import serving
from vireo.inference import model_config_pb2
from vireo.inference import open_inference_pb2 as pb
from vireo.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout


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


@pytest.mark.parametrize("method", ["ModelConfig", "ModelMetadata"])
async def test_an_unknown_model_or_version_has_no_description(ranking: Any, method: str) -> None:
    kind = getattr(pb, f"{method}Request")
    for name, version in (("viewer_tower", ""), ("ranker", "2"), ("\0", "")):
        code, _ = await refusal(getattr(ranking, method)(kind(name=name, version=version)))
        assert code is grpc.StatusCode.NOT_FOUND
    code, message = await refusal(getattr(ranking, method)(kind(name="x" * 257)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("name: ")
