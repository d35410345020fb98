"""What the settings of the Kubernetes source may be, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.s3 import unreachable_s3
from vireo.server.control.control import discovery_of
from vireo.server.control.discovery.kubernetes_settings import KubernetesSettings
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SERVICES", '{"candidates": "a"}', "no cluster is called 'candidates'"),
        ("SERVICES", '{"candidate": "vireo-ranking"}', "two clusters can't both be"),
        ("SERVICES", '{"candidate": "a,b"}', "should match pattern"),
        ("NAMESPACE", "a/b", "should match pattern"),
        ("WATCH_SECONDS", "0", "greater than or equal to 1"),
    ],
)
def test_invalid_settings_are_reported_with_their_variable(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VIREO_KUBERNETES_{name}", value)
    with pytest.raises(VireoError, match=f"VIREO_KUBERNETES_{name}") as raised:
        KubernetesSettings.load()
    assert words in str(raised.value)


def test_without_the_client_the_error_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ControlSettings(discovery="kubernetes", s3=unreachable_s3())
    for module in ("kubernetes", "kubernetes_api"):
        monkeypatch.delitem(sys.modules, f"vireo.server.control.discovery.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "kubernetes.aio", None)
    with pytest.raises(VireoError, match=r"pip install 'vireo\[kubernetes\]'"):
        discovery_of(settings)


def test_a_list_beside_the_cluster_is_refused() -> None:
    settings = ControlSettings(
        discovery="kubernetes", endpoints_file=Path("endpoints.json"), s3=unreachable_s3()
    )
    with pytest.raises(VireoError, match="unset VIREO_ENDPOINTS_FILE"):
        discovery_of(settings)


def test_other_sources_import_nothing_of_the_client() -> None:
    code = "import vireo.server.control.control, sys; assert 'kubernetes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
