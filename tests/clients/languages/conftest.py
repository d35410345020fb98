"""The example clients, built from the protos."""

from __future__ import annotations

import pytest

from tests.builders.certificates import Certificate, authority, signed
from tests.builders.example_clients import ALL, OVER_GRPC, ExampleClient


def _name(client: ExampleClient) -> str:
    return client.name


@pytest.fixture(params=ALL, ids=_name)
def client(request: pytest.FixtureRequest) -> ExampleClient:
    """Each of them."""
    client: ExampleClient = request.param
    client.build()
    return client


@pytest.fixture(params=OVER_GRPC, ids=_name)
def grpc_client(request: pytest.FixtureRequest) -> ExampleClient:
    """Each that needs no Envoy before the server."""
    client: ExampleClient = request.param
    client.build()
    return client


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """That of a server, of the authority which signed it, and of one which signed nothing."""
    folder = tmp_path_factory.mktemp("certificates")
    root, stranger = authority(folder, "root"), authority(folder, "stranger")
    return {"server": signed(folder, "server", root), "root": root, "stranger": stranger}
