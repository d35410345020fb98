from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest
import structlog

from tests.builders.shared_servers import nats

__all__ = ["nats"]


@pytest.fixture
def logs_of_a_command() -> Iterator[None]:
    """Logs as a command of ours begins with, and afterwards as they were."""
    configured, disabled = structlog.get_config(), logging.root.manager.disable
    structlog.reset_defaults()
    yield
    structlog.configure(**configured)
    logging.disable(disabled)


@pytest.fixture
def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
