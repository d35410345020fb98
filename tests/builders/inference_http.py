"""Asks a pod by HTTP as clients of the Open Inference Protocol do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.builders.inference import Array, described
from tests.builders.rpc import rpc_settings, serving
from vireo.server.inference.http_server import http_endpoint
from vireo.server.pod.pod import Pod
from vireo.server.rpc.server import RpcServer

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body[: int(self.headers.get(LENGTH, len(self.body)))])

    @property
    def error(self) -> str:
        """The message of an error, which has nothing else."""
        assert self.json.keys() == {"error"}
        message: str = self.json["error"]
        return message


@dataclass(frozen=True)
class HttpPod:
    """A pod that serves HTTP."""

    server: RpcServer
    port: int
    session: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, data=body, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def infer(self, model: str, request: Mapping[str, Any], **headers: str) -> Answer:
        return await self.ask(
            "POST", f"/v2/models/{model}/infer", json.dumps(request).encode(), headers
        )


@asynccontextmanager
async def serving_http(
    pod: Pod[Any], folder: Path | None, **options: Any
) -> AsyncIterator[HttpPod]:
    """A pod's server as of `serving`, and its endpoint of HTTP."""
    settings = options.pop("settings", rpc_settings())
    async with (
        serving(pod, folder, settings=settings, **options) as (server, _),
        http_endpoint(server, settings, 0) as port,
        aiohttp.ClientSession() as session,
    ):
        yield HttpPod(server, port, session)


def json_request(inputs: Mapping[str, Array], **fields: Any) -> dict[str, Any]:
    """A request with all values in JSON."""
    return {
        "inputs": [
            {**described(name, array), "data": array.tolist()} for name, array in inputs.items()
        ],
        **fields,
    }


def binary_request(inputs: Mapping[str, Array], **fields: Any) -> tuple[bytes, dict[str, str]]:
    """The body of a request with binary tensors, and its header."""
    raws = [array.astype(array.dtype.newbyteorder("<")).tobytes() for array in inputs.values()]
    parts = [
        {**described(name, array), "parameters": {"binary_data_size": len(raw)}}
        for (name, array), raw in zip(inputs.items(), raws, strict=True)
    ]
    head = json.dumps({"inputs": parts, **fields}).encode()
    return b"".join((head, *raws)), {LENGTH: str(len(head))}
