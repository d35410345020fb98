"""The settings of a stack and the ports that follow from them."""

from __future__ import annotations

import socket

import pytest
import yaml

from vireo.ops.stack.envoy import bootstrap
from vireo.ops.stack.ports import PortTakenError, check_ports_free, free_port_base
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "EDGE_PORT", "PORT_BASE", "CANDIDATE_PODS"):
        monkeypatch.delenv(f"VIREO_{name}", raising=False)


def test_ports_follow_from_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_PORT_BASE", "20000")
    settings = StackSettings.load()
    assert settings.edge_port == 8080
    assert (settings.admin_port, settings.s3_port) == (20000, 20010)
    assert settings.pod_ports("gateway") == [20040, 20041]


def test_all_ports_of_any_number_of_pods_differ() -> None:
    settings = StackSettings(candidate_pods=10, ranking_pods=10, gateway_pods=10, canary_pods=10)
    # The edge, admin, two inner listeners; control plane, log, fifty pods, ten consumers and
    # the metrics of each; ten for S3.
    assert len(settings.ports(embedded_s3=True, partitions=10)) == 138


def test_metrics_ports_equal_pod_ports_of_a_stack_with_a_base_1000_higher() -> None:
    lower, higher = (
        StackSettings(port_base=base, edge_port=base + 3).ports(embedded_s3=True)
        for base in (20000, 21000)
    )
    shared = lower.keys() & higher.keys()
    assert shared == {21004, 21005, 21020, 21021, 21030, 21031, 21040, 21041, 21090}


def test_a_taken_metrics_port_is_reported_with_the_setting_that_moves_it() -> None:
    base = free_port_base()
    settings = StackSettings(port_base=base, edge_port=base + 3)
    with (
        socket.create_server(("127.0.0.1", base + 1031)),
        pytest.raises(PortTakenError, match=f"port {base + 1031} .*VIREO_PORT_BASE"),
    ):
        check_ports_free(settings.ports(embedded_s3=True))


def test_more_partitions_than_consumers_on_one_machine_are_reported() -> None:
    with pytest.raises(VireoError, match=r"VIREO_EVENT_PARTITIONS=11: .* at most 10"):
        StackSettings().ports(embedded_s3=True, partitions=11)


def test_a_port_of_two_settings_is_reported() -> None:
    settings = StackSettings(port_base=20000, edge_port=20041)
    with pytest.raises(VireoError, match=r"20041 .*VIREO_PORT_BASE and VIREO_EDGE_PORT"):
        settings.ports(embedded_s3=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("EDGE_PORT", "eighty"), ("EDGE_PORT", "70000"), ("PORT_BASE", "80"), ("CANDIDATE_PODS", "0")],
)
def test_a_bad_setting_is_one_line_that_names_it(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VIREO_{name}", text)
    with pytest.raises(VireoError, match=f"^VIREO_{name}: [^;]+$") as raised:
        StackSettings.load()
    assert "\n" not in str(raised.value)


def test_two_envoys_have_two_ids() -> None:
    ids = {
        yaml.safe_load(bootstrap(StackSettings(edge_port=port)))["node"]["id"]
        for port in (8080, 8081)
    }
    assert ids == {"envoy-8080", "envoy-8081"}


@pytest.mark.parametrize(
    ("host", "edge"),
    [
        ("10.1.2.3", "10.1.2.3:8080"),
        ("0.0.0.0", "127.0.0.1:8080"),
        ("::", "[::1]:8080"),
        ("::1", "[::1]:8080"),
    ],
)
def test_the_edge_is_reached_at_its_address(host: str, edge: str) -> None:
    assert StackSettings(edge_host=host).edge == edge
