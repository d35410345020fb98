"""Prints Envoy's bootstrap: envoy/bootstrap.yaml, its control plane being vireo-control:8104."""

from __future__ import annotations

import sys

import yaml

from vireo.server.control.templates import filled

document = filled(
    "bootstrap",
    {
        "node": "unnamed",  # each has its own by --service-node
        "admin_port": 8100,
        "control_host": "vireo-control",
        "control_port": 8104,
    },
)
yaml.safe_dump(document, sys.stdout, sort_keys=False)
