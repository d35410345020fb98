"""Creates what a secured stack needs: certificates, a key for tokens, and Envoy's secrets."""

from __future__ import annotations

import yaml

from vireo.ops.stack.settings import StackSettings
from vireo.server.control.templates import filled
from vireo.server.security.folder import SecurityFolder

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
        fresh = folder.secrets / f"{name}.new"
        fresh.write_text(yaml.safe_dump(document, sort_keys=False))
        fresh.replace(folder.secrets / f"{name}.yaml")
