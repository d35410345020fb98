"""Writes docs/settings.md from the settings themselves: `python -m docs.generate`."""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from server.candidate.service import CandidateSettings
from server.control.discovery.kubernetes_settings import KubernetesSettings
from server.control.settings import ControlSettings
from server.gateway.settings import GatewaySettings
from server.pod.pod import PodSettings
from server.releases.s3 import S3Settings
from server.rpc.settings import RpcSettings
from server.stack.settings import StackSettings

PAGE = Path(__file__).parent / "settings.md"

_INTRODUCTION = """# Settings

Everything is set by environment variables; a pod takes each of its own as a flag too
(`VIREO_DRAIN_SECONDS=2` or `--drain-seconds 2`), which `python -m server.gateway --help` lists;
where Vireo is installed as a wheel, `python -m vireo.server.gateway --help`.
Each process prints its settings when it starts, secrets hidden.

This page is made from the code by `python -m docs.generate`.

## Data and features

| variable | default | meaning |
|---|---|---|
| `VIREO_HOME` | `.vireo` in the checkout | Folder of all run-time state. |
| `VIREO_USER` | user@host | Who changes a channel, as its history tells. |
| `VIREO_ONLINE_STORE` | `sqlite` | Online store of the features built: `sqlite` or `redis`. |
| `VIREO_REDIS_URL` | `redis://127.0.0.1:6379` | Where Redis is, with `VIREO_ONLINE_STORE=redis`. |
"""

_SECTIONS: tuple[tuple[str, type[BaseSettings], type[BaseSettings] | None], ...] = (
    ("`vireo up`: the stack on one machine", StackSettings, None),
    ("The S3 server that holds releases", S3Settings, None),
    ("Every pod", PodSettings, None),
    ("The candidate pod, besides", CandidateSettings, PodSettings),
    ("The gateway, besides", GatewaySettings, PodSettings),
    ("The control plane", ControlSettings, RpcSettings),
    ("The control plane in a Kubernetes cluster", KubernetesSettings, None),
)


def settings_page() -> str:
    """The page, as Markdown."""
    parts = [_INTRODUCTION]
    for title, kind, base in _SECTIONS:
        known = base.model_fields if base else {}
        prefix = kind.model_config["env_prefix"]
        rows = [
            _row(prefix + name.upper(), field)
            for name, field in kind.model_fields.items()
            if name not in ("s3", "home", "kubernetes")
            and (name not in known or known[name].get_default() != field.get_default())
        ]
        parts.append(
            f"## {title}\n\n| variable | default | meaning |\n|---|---|---|\n" + "\n".join(rows)
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _row(variable: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{variable}` | {_default(field).replace('|', '&#124;')} | {meaning} |"


def _default(field: FieldInfo) -> str:
    """The default, as it is where no variable is set."""
    if field.is_required():
        return "required"
    ports = {name: StackSettings.model_fields[name].default for name in ("port_base", "edge_port")}
    default = field.get_default(call_default_factory=True, validated_data=ports)
    if isinstance(default, Path):
        return "below `VIREO_HOME`"
    return "empty" if default in ("", None) else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
