from __future__ import annotations

import pytest


@pytest.fixture(params=["grpcio", "native"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Servers of the test are started with each transport in turn."""
    monkeypatch.setenv("VIREO_TRANSPORT", request.param)
    return str(request.param)
