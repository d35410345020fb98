"""The settings that the processes of a secured stack get."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.builders.s3 import unreachable_s3
from vireo.ops.stack.envoy import bootstrap, secure
from vireo.ops.stack.processes import control_process, pod_processes
from vireo.ops.stack.settings import StackSettings
from vireo.server.control.settings import ControlSettings
from vireo.server.releases.s3 import S3Settings


def secured(home: Path, **changes: object) -> StackSettings:
    return StackSettings(home=home, secure=True, **changes)  # type: ignore[arg-type]


def test_each_process_has_the_certificate_of_its_role(tmp_path: Path) -> None:
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


def test_no_process_has_a_secret_on_its_command_line(tmp_path: Path) -> None:
    settings = secured(tmp_path)
    server = unreachable_s3()
    specs = pod_processes(settings, server)
    secret = server.secret_key.get_secret_value()
    assert secret
    assert not any(secret in word for spec in specs for word in spec.command)


def test_envoy_gets_paths_of_certificates_and_no_keys(tmp_path: Path) -> None:
    settings = secured(tmp_path)
    secure(settings)
    for name in ("edge", "envoy", "authority"):
        text = (settings.security.secrets / f"{name}.yaml").read_text()
        [secret] = yaml.safe_load(text)["resources"]
        assert secret["name"] == name
        assert "BEGIN" not in text


def test_the_edge_is_certified_for_the_address_that_it_listens_on(tmp_path: Path) -> None:
    from cryptography import x509

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
