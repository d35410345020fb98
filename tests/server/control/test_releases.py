"""The release that all pods serve, by the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from vireo.server.control import channels
from vireo.server.control.channels import PodReleases
from vireo.server.control.mesh import Endpoint, Mesh, Pool, Service
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse, ReleaseLoad
from vireo.v1.release_pb2_grpc import (
    ReleaseServiceServicer,
    add_ReleaseServiceServicer_to_server,
)


class ScriptedPod(ReleaseServiceServicer):
    """A pod that serves one release and may load another."""

    def __init__(self, release: str, loading: str = "", *, hangs: bool = False) -> None:
        self.release, self.loading, self.hangs = release, loading, hangs
        self.calls = 0

    async def GetServingRelease(  # noqa: N802
        self, _: GetServingReleaseRequest, _context: Any
    ) -> GetServingReleaseResponse:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        return GetServingReleaseResponse(
            release_id=self.release,
            loading=ReleaseLoad(release_id=self.loading) if self.loading else None,
        )


@asynccontextmanager
async def running_pods(
    pods: dict[Service, list[ScriptedPod]], *others: Endpoint
) -> AsyncIterator[PodReleases]:
    """The control plane's word on these pods, and on candidate pods at other endpoints."""
    members = {}
    async with AsyncExitStack() as stack:
        for service, scripted in pods.items():
            endpoints = set(others) if service == "candidate" else set()
            for pod in scripted:
                server = grpc.aio.server()
                add_ReleaseServiceServicer_to_server(pod, server)
                endpoints.add(Endpoint("127.0.0.1", server.add_insecure_port("127.0.0.1:0")))
                await server.start()
                stack.push_async_callback(server.stop, None)
            members[Pool(service)] = frozenset(endpoints)
        yield PodReleases(lambda: Mesh(members), None)


async def ask(control: PodReleases) -> tuple[str, str]:
    """Return the release that all serve, and the one that some load."""
    response = await control.GetServingRelease(GetServingReleaseRequest(), None)
    return response.release_id, response.loading.release_id


async def test_a_release_counts_once_every_pod_of_both_services_serves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "_REUSE_SECONDS", 0)
    last, ranking = ScriptedPod("old"), ScriptedPod("new")
    candidates = [*(ScriptedPod("new") for _ in range(4)), last]
    async with running_pods({"candidate": candidates, "ranking": [ranking]}) as control:
        assert await ask(control) == ("", "")
        last.loading = "new"
        assert await ask(control) == ("", "new")
        last.release, last.loading, ranking.release = "new", "", "old"
        assert await ask(control) == ("", "")
        ranking.release = "new"
        assert await ask(control) == ("new", "")


@pytest.mark.parametrize("pods", [{}, {"candidate": ["new"]}, {"ranking": ["new"]}])
async def test_a_service_without_pods_serves_nothing(pods: dict[Service, list[str]]) -> None:
    scripted = {service: [*map(ScriptedPod, served)] for service, served in pods.items()}
    async with running_pods(scripted) as control:
        assert await ask(control) == ("", "")


@pytest.mark.parametrize(("hangs", "release"), [(False, "new"), (True, "")])
async def test_a_pod_that_cannot_be_reached_delays_nobody_and_one_that_hangs_serves_nothing(
    monkeypatch: pytest.MonkeyPatch, release: str, *, hangs: bool
) -> None:
    monkeypatch.setattr(channels, "_POD_SECONDS", 0.1 if hangs else 60)
    pods: dict[Service, list[ScriptedPod]] = {
        "candidate": [ScriptedPod("new", hangs=hangs), ScriptedPod("new")],
        "ranking": [ScriptedPod("new")],
    }
    nobody = Endpoint("127.0.0.1", 1)
    async with running_pods(pods, nobody) as control:
        assert await ask(control) == (release, "")


async def test_gateways_that_ask_together_have_each_pod_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "_REUSE_SECONDS", 1e6)
    pod = ScriptedPod("new")
    async with running_pods({"candidate": [pod], "ranking": [ScriptedPod("new")]}) as control:
        assert await asyncio.gather(*(ask(control) for _ in range(20))) == [("new", "")] * 20
    assert pod.calls == 1
