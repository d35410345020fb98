"""The registry of clients."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from vireo.server.control.clients import Clients


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Have threads take turns as often as possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("frequent_switches")
def test_scrapes_in_another_thread_see_whole_nodes_while_streams_begin_and_end() -> None:
    clients = Clients()

    def stream() -> None:
        for number in range(5_000):
            clients.end(clients.begin(f"node {number % 3}", "", ""))

    with ThreadPoolExecutor(1) as threads:
        streams = threads.submit(stream)
        while not streams.done():
            assert all(client.sessions for client in clients.all())
        streams.result()
