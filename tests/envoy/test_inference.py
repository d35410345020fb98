"""The Open Inference Protocol by HTTP through the edge, if it is switched on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.builders.edge import running_edge
from tests.builders.inference import golden
from tests.builders.inference_http import LENGTH, HttpPod, binary_request, json_request
from tests.builders.releases import build_release
from tests.builders.rpc import rpc_settings, serving
from tests.builders.tokens import Tokens
from vireo.ops.stack.settings import OIP_HTTP_PORT_OFFSET
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.inference.http_server import http_endpoint
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.rpc.server import RpcServer
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

INFER = "/v2/models/ranker/infer"


@dataclass(frozen=True)
class Open:
    """An edge that is open to those with tokens of the scope, and pods behind it."""

    edge: HttpPod
    tokens: Tokens
    folder: Path
    """The pods' release."""
    ranking: RpcServer

    def with_token(self, *scopes: str, **changes: Any) -> dict[str, str]:
        token = self.tokens.good(*scopes or ("vireo.inference",), **changes)
        return {"authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: bytes | None = None, **more: str) -> Any:
        return await self.edge.ask(method, path, body, {**self.with_token(), **more})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Open]:
    folder = SecurityFolder(tmp_path_factory.mktemp("security"))
    TokenSigner(folder).ensure()
    release = build_release(tmp_path_factory.mktemp("release"))
    control = {
        "jwks": str(folder.jwks),
        "oip_http_offset": OIP_HTTP_PORT_OFFSET,
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        edge = await enter(running_edge(tmp_path_factory.mktemp("edge"), 1, control=control))
        servers = {}
        for pod, kind in ((CANDIDATE_POD, "candidate"), (RANKING_POD, "ranking")):
            servers[kind], _ = await enter(serving(pod, release))
            for port in edge.settings.pod_ports(kind):  # type: ignore[arg-type]
                at = port + OIP_HTTP_PORT_OFFSET
                await enter(http_endpoint(servers[kind], rpc_settings(), at))
        session = await enter(aiohttp.ClientSession())
        asked = HttpPod(servers["ranking"], edge.settings.edge_port, session)
        opened = Open(asked, Tokens(folder), release, servers["ranking"])
        for model in ("ranker", "viewer_tower"):  # Envoy finds them healthy within a second
            await _until_ready(opened, model)
        yield opened


async def _until_ready(opened: Open, model: str) -> None:
    for _ in range(600):
        if (await opened.ask("GET", f"/v2/models/{model}/ready")).status == 200:
            return
    raise TimeoutError(f"{model} isn't ready")


async def test_each_model_is_reached_by_its_name(opened: Open) -> None:
    assert (await opened.ask("GET", "/v2")).json["name"] == "vireo"
    assert (await opened.ask("GET", "/v2/health/ready")).json == {"ready": True}
    for model in ("ranker", "viewer_tower"):
        for place in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
            assert (await opened.ask("GET", place)).json["name"] == model
            assert (await opened.ask("GET", f"{place}/config")).json["name"] == model


async def test_a_model_runs_on_json_and_binary_tensors(opened: Open) -> None:
    inputs, outputs = golden(opened.folder, layout.GOLDEN_RANKER)
    answer = await opened.ask("POST", INFER, json.dumps(json_request(inputs)).encode())
    assert answer.status == 200
    assert answer.json["outputs"][0]["shape"] == list(outputs["scores"].shape)
    body, headers = binary_request(inputs, parameters={"binary_data_output": True})
    answer = await opened.ask("POST", INFER, body, **headers)
    assert answer.status == 200
    assert len(answer.body) == int(answer.headers[LENGTH]) + outputs["scores"].size * 4
    assert answer.headers["x-request-id"]


async def test_it_needs_the_scope_of_its_own(opened: Open) -> None:
    for path in ("/v2", "/v2/", "/v2/models/ranker", "/v2/models/viewer_tower"):
        assert (await opened.edge.get(path)).status == 401
        for scopes in (("vireo.read",), ("vireo.admin", "vireo.events", "vireo.catalog")):
            answer = await opened.edge.ask("GET", path, None, opened.with_token(*scopes))
            assert answer.status == 403
            assert answer.json == {"error": "RBAC: access denied"}
    recommendations = "/v1/viewers/1/recommendations"
    assert (await opened.ask("GET", recommendations)).status == 403


async def test_a_token_that_names_its_viewer_runs_no_model(opened: Open) -> None:
    inputs, _ = golden(opened.folder, layout.GOLDEN_RANKER)
    token = opened.with_token(more={"vireo_viewer": "1"})
    body = json.dumps(json_request(inputs)).encode()
    answer = await opened.edge.ask("POST", INFER, body, token)
    assert answer.status == 403
    assert "viewer" in answer.error


async def test_errors_of_pods_and_of_the_edge_have_the_same_form(opened: Open) -> None:
    for method, path, body, status in (
        ("GET", "/v2/models/other", None, 404),
        ("GET", "/v2/nothing", None, 404),
        ("GET", INFER, None, 405),
        ("POST", INFER, b"{", 400),
        ("POST", INFER, b" " * ((1 << 20) + 1), 413),
    ):
        answer = await opened.ask(method, path, body)
        assert answer.status == status
        assert answer.error
