"""The settings that the processes of a stack get, of a plain and of a secured one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from tests.builders.rpc import rpc_settings
from tests.builders.s3 import unreachable_s3
from vireo.ops.stack.envoy import bootstrap, secure
from vireo.ops.stack.nats import log_process, reachable_log
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.processes import (
    control_process,
    endpoints_document,
    envoy_process,
    pod_processes,
)
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.server.control.mesh import Pool
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.server import RpcServer


@pytest.fixture(autouse=True)
def _no_external_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIREO_NATS_URL", raising=False)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_pods_cache_releases_in_vireo_cache_or_below_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, elsewhere: bool
) -> None:
    monkeypatch.delenv("VIREO_CACHE", raising=False)
    if elsewhere:
        monkeypatch.setenv("VIREO_CACHE", "/another/disk")
    pods = pod_processes(StackSettings(home=tmp_path), unreachable_s3())
    wanted = "/another/disk" if elsewhere else str(tmp_path / "cache")
    assert {pod.environment["VIREO_CACHE"] for pod in pods} == {wanted}


async def test_envoys_health_probe_uses_the_edges_address(tmp_path: Path) -> None:
    server = RpcServer(rpc_settings(host="127.0.0.2"))
    server.add("vireo.v1.RecommendationService", lambda _: None)
    await server.start()
    await server.set_serving(True)
    settings = StackSettings(home=tmp_path, edge_host="127.0.0.2", edge_port=server.port)
    problem = await envoy_process(settings, tmp_path / "envoy.yaml").probe()
    await server.drain()
    assert not problem


def test_pods_of_each_pool_follow_its_channel_and_only_productions_are_awaited(
    tmp_path: Path,
) -> None:
    settings = StackSettings(home=tmp_path, port_base=20000, canary_pods=1)
    pods = {pod.name: pod for pod in pod_processes(settings, unreachable_s3())}
    assert {
        name: (pod.pool, pod.environment["VIREO_CHANNEL"], pod.port, pod.awaited)
        for name, pod in pods.items()
        if name.startswith("ranking")
    } == {
        "ranking-1": ("production", "production", 20030, True),
        "ranking-2": ("production", "production", 20031, True),
        "ranking-canary-1": ("canary", "canary", 20060, False),
    }


def test_pods_reach_the_log_and_without_one_get_no_address(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path, port_base=20000)
    log_process(settings)
    log = reachable_log(settings)
    pods = pod_processes(settings, unreachable_s3(), log)
    assert {pod.environment["VIREO_NATS_URL"] for pod in pods} == {"nats://127.0.0.1:20005"}
    assert {pod.environment["VIREO_NATS_TOKEN"] for pod in pods} == {
        log.nats_token.get_secret_value()
    }
    alone = pod_processes(settings, unreachable_s3())
    assert not any("VIREO_NATS_URL" in pod.environment for pod in alone)


def test_the_logs_token_stays_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path)
    first, second = ((log_process(settings), reachable_log(settings))[1] for _ in range(2))
    assert first.nats_token == second.nats_token
    private = [tmp_path / "log" / name for name in ("token", "nats.conf")]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600, 0o600]


@pytest.mark.parametrize("written", ["", "\n", "short", " " * 40, "x" * 40 + "\n"])
def test_a_log_whose_token_is_none_is_not_served(tmp_path: Path, written: str) -> None:
    settings = StackSettings(home=tmp_path)
    log_process(settings)
    (tmp_path / "log" / "nats.conf").unlink()
    (tmp_path / "log" / "token").write_text(written)
    for open_log in (log_process, reachable_log):
        with pytest.raises(VireoError, match=r"log/token has no token .*delete the file"):
            open_log(settings)
    assert not (tmp_path / "log" / "nats.conf").exists()


def test_the_embedded_log_is_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_EVENT_REPLICAS", "3")
    with pytest.raises(VireoError, match=r"^VIREO_EVENT_REPLICAS=3: .*VIREO_NATS_URL"):
        log_process(StackSettings(home=tmp_path))


def test_without_a_log_a_command_says_how_to_have_one(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"vireo up.*VIREO_NATS_URL"):
        reachable_log(StackSettings(home=tmp_path))


async def test_a_log_that_says_that_it_stores_nothing_is_unhealthy(tmp_path: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.0 503 Service Unavailable\r\n\r\n{"error": "no space left"}')
        writer.close()

    settings = StackSettings(home=tmp_path, port_base=free_port_base())
    port, probe = settings.log_port + METRICS_PORT_OFFSET, log_process(settings).probe
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    problem = await probe()
    assert problem.endswith('503 Service Unavailable {"error": "no space left"}')
    server.close()
    await server.wait_closed()
    assert "Connect call failed" in await probe()


def test_the_control_plane_gets_every_pod(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path, canary_pods=2)
    ports = {pod.port for pod in pod_processes(settings, unreachable_s3())}
    found = endpoints_document(settings).endpoints()
    assert {each.port for endpoints in found.values() for each in endpoints} == ports
    assert len(found[Pool("candidate", "canary")]) == 2


def secured(home: Path, **changes: object) -> StackSettings:
    return StackSettings(home=home, secure=True, **changes)  # type: ignore[arg-type]


def test_each_process_has_its_roles_certificate_and_no_secret_in_its_command(
    tmp_path: Path,
) -> None:
    settings = secured(tmp_path)
    secure(settings)
    specs = [
        *pod_processes(settings, unreachable_s3()),
        control_process(settings, unreachable_s3(), tmp_path / "endpoints.json"),
    ]
    for spec in specs:
        role = spec.name.partition("-")[0]
        assert spec.environment["VIREO_TLS_CERTIFICATE"].endswith(f"/current/{role}.crt")
        assert Path(spec.environment["VIREO_TLS_KEY"]).read_text().startswith("-----BEGIN PRIVATE")
        assert Path(spec.environment["VIREO_TLS_CA"]).exists()
        secret = unreachable_s3().secret_key.get_secret_value()
        assert not any(secret in word for word in spec.command)


def test_envoy_gets_paths_of_certificates_and_no_keys(tmp_path: Path) -> None:
    settings = secured(tmp_path)
    secure(settings)
    for name in ("edge", "envoy", "authority"):
        text = (settings.security.secrets / f"{name}.yaml").read_text()
        [secret] = yaml.safe_load(text)["resources"]
        assert secret["name"] == name
        assert "BEGIN" not in text


def test_the_edge_is_certified_for_the_address_that_it_listens_on(tmp_path: Path) -> None:
    settings = secured(tmp_path, edge_host="192.0.2.1")
    secure(settings)
    pem = settings.security.tls("edge").certificate.read_bytes()
    extension = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "192.0.2.1" in {str(each.value) for each in extension.value}


def test_settings_for_a_secured_edge_change_nothing_in_a_plain_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_JWKS", "/keys.json")
    monkeypatch.setenv("VIREO_RATE_LIMIT", "7")
    settings = StackSettings(home=tmp_path)
    spec = control_process(settings, unreachable_s3(), tmp_path / "endpoints.json")
    assert (spec.environment["VIREO_JWKS"], spec.environment["VIREO_RATE_LIMIT"]) == ("", "0")
    assert not any(name.startswith("VIREO_TLS") for name in spec.environment)
    assert "transport_socket" not in bootstrap(settings)


def test_the_admin_interface_can_be_switched_off(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path, admin_port=0)
    assert "admin" not in yaml.safe_load(bootstrap(settings))
    assert 0 not in settings.ports(embedded_s3=True)


def test_settings_are_printed_with_the_places_of_secrets_not_with_secrets() -> None:
    settings = ControlSettings(
        s3=S3Settings(endpoint="127.0.0.1:1", access_key="a", secret_key="never shown"),  # type: ignore[arg-type]
        tls_certificate=Path("/c.crt"),
        tls_key=Path("/c.key"),
        tls_ca=Path("/ca.crt"),
        envoy_secrets=Path("/secrets"),
    )
    assert settings.model_dump(mode="json")["tls_key"] == "/c.key"
    for shown in (settings.model_dump_json(), repr(settings)):
        assert "never shown" not in shown
