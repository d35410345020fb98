"""A gateway is killed in the middle of a batch: another one continues it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from tests.builders.chain import Chain
from tests.builders.process import start, wait_for_health, watched_channel
from vireo.ops.stack.ports import free_port_base
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo_client import AsyncClient

pytestmark = pytest.mark.integration

VIEWERS = [f"viewer-{number}" for number in range(1500)]
"""Their slates don't fit into the windows of a connection: none is finished before it is read."""


def wait_until_serving(port: int) -> None:
    with watched_channel(port) as channel:
        wait_for_health(channel, health_pb2.HealthCheckResponse.SERVING)


async def test_each_viewer_comes_once_although_the_gateway_is_killed(
    s3: S3Settings,
    chain: Chain,
    tmp_path: Path,
) -> None:
    store, release_id = ReleaseStore(s3), Manifest.read(chain.release).release_id
    store.publish(chain.release)
    store.change_channel("batches", Change(release_id), store.read_channel("batches"))
    base = free_port_base()
    ports = [base, base + 1]
    environment = {
        **s3.environment(),
        "VIREO_CHANNEL": "batches",
        "VIREO_CACHE": str(tmp_path / "cache"),
        "VIREO_FEATURES": str(chain.features),
        "VIREO_CANDIDATE_TARGET": chain.candidate,
        "VIREO_RANKING_TARGET": chain.ranking,
        "VIREO_RELEASE_SWAP_TIMEOUT": "0",
        # Far more than is needed: the machine may be busy.
        "VIREO_FEATURES_TIMEOUT": "20",
        "VIREO_RETRIEVAL_TIMEOUT": "20",
        "VIREO_RANKING_TIMEOUT": "20",
    }
    gateways = list[subprocess.Popen[bytes]]()
    try:
        for port in ports:
            log = tmp_path / f"{port}.log"
            gateways.append(start("vireo.server.gateway", log, environment, "--port", str(port)))
        for port in ports:
            await asyncio.to_thread(wait_until_serving, port)
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        received = list[str]()
        async with AsyncClient(target) as client:
            async for viewer_id, slate in client.batch(VIEWERS, page_size=30):
                received.append(viewer_id)
                assert not slate.degradations
                if len(received) == 10:
                    gateways[0].kill()
                    gateways[0].wait()
        assert received == VIEWERS
        assert gateways[1].poll() is None
    finally:
        for gateway in gateways:
            gateway.kill()
            gateway.wait()
