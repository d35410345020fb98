"""What is retried, and after how long: the table that the clients of all languages share."""

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import grpc

TABLE: Any = json.loads(files("vireo_client").joinpath("_generated", "retries.json").read_text())
REPEAT, RESUME = TABLE["repeat"], TABLE["batch"]


def codes(names: Iterable[str]) -> frozenset[grpc.StatusCode]:
    """Return status codes by their names."""
    return frozenset(grpc.StatusCode[name] for name in names)
