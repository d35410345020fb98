"""Where the Kubernetes API, its credentials and the Services are found."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from tests.builders.kubernetes_api import (
    RecordedApi,
    recorded_lines,
)
from tests.builders.kubernetes_following import (
    CANDIDATE,
    LISTED,
    Logs,
    following,
    quick,
    reasons,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.control.control import discovery_of
from vireo.server.control.discovery.kubernetes import KubernetesDiscovery
from vireo.server.control.discovery.kubernetes_settings import KubernetesSettings
from vireo.server.control.mesh import Pool
from vireo.server.control.settings import ControlSettings

pytestmark = pytest.mark.slow


def certificate(folder: Path) -> Path:
    """A certificate for loopback that signs itself, with its key in the same folder."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/ca.crt"]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return folder / "ca.crt"


async def test_in_a_pod_the_service_account_is_used_and_its_token_reread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, tmp_path / "tls.key")
    token = tmp_path / "token"
    token.write_text("first")
    (tmp_path / "namespace").write_text("recommender")
    api = RecordedApi(tokens=frozenset({"first"}))
    async with api.running(context):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(path))
        async with following(KubernetesSettings(max_backoff=0.05)) as follower:
            await until(lambda: bool(api.open_watches))
            assert follower.published == [LISTED]
            assert {each.namespace for each in api.asked} == {"recommender"}
            api.tokens = frozenset({"second"})
            api.send(*recorded_lines("expired.jsonl"))
            await until(lambda: follower.failures >= 1)
            token.write_text("second")
            await until(lambda: api.asked[-1].watches and api.asked[-1].token == "second")


@pytest.mark.parametrize(
    "text",
    [None, "{", "kind: Config", "2001-99-99", "[]", "current-context: a\nclusters: 5", "[" * 1200],
)
async def test_a_kubeconfig_that_is_missing_or_wrong_is_reported_and_read_again(
    text: str | None, api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    settings = quick(api, tmp_path)
    assert settings.config is not None
    good = settings.config.read_text()
    settings.config.unlink()
    if text is not None:
        settings.config.write_text(text)
    async with following(settings) as follower:
        await until(lambda: follower.failures >= 2)
        assert reasons(logs)[0].startswith("reading the configuration: ")
        settings.config.write_text(good)
        await until(lambda: follower.published == [LISTED])


async def test_services_may_have_other_names_in_another_namespace(
    api: RecordedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_DISCOVERY", "kubernetes")
    monkeypatch.setenv("VIREO_KUBERNETES_CONFIG", str(api.kubeconfig(tmp_path)))
    monkeypatch.setenv("VIREO_KUBERNETES_NAMESPACE", "elsewhere")
    monkeypatch.setenv(
        "VIREO_KUBERNETES_SERVICES", '{"ranking-canary": "vireo-candidate","candidate": "other"}'
    )
    settings = ControlSettings(s3=unreachable_s3())
    discovery = discovery_of(settings)
    assert isinstance(discovery, KubernetesDiscovery)
    async with following(settings.kubernetes) as follower:
        await until(lambda: bool(follower.published))
    assert follower.published[0][Pool("ranking", "canary")] == LISTED[CANDIDATE]
    assert follower.published[0][CANDIDATE] == frozenset()
    assert api.lists[0].namespace == "elsewhere"
