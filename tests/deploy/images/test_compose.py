"""That compose.yaml's services, from the images and with read-only roots, serve slates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.images import build
from tests.builders.stack import BIN
from tests.builders.tiny_home import DATASET, VIEWER, build_tiny_home
from tests.deploy.images.compose import Compose, composed, read_compose
from vireo.server.control.discovery import EndpointsDocument

VARIABLES = {
    "VIREO_TAG": build.tag(),
    "VIREO_S3_ACCESS_KEY": "vireo",
    "VIREO_S3_SECRET_KEY": "not-a-secret-but-long-enough",
    "VIREO_NATS_TOKEN": "not-a-secret-either",
}
STORES = ("s3", "log")
PODS = ("candidate-1", "candidate-2", "ranking-1", "ranking-2")


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.usefixtures("sboms")
async def test_the_services_of_the_file_serve_slates(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path / "home")
    with composed(tmp_path / "compose", VARIABLES) as compose:
        compose.start(*STORES)
        await compose.healthy(*STORES)
        compose.fill("features", home.root / "features")
        publish(compose, home.root)
        compose.start("control", *PODS, "edge", "gateway", "consumer")
        await compose.healthy("control", *PODS, "gateway", "edge", "consumer")

        command = ("recommend", "--target", f"{compose.address('edge')}:8080", "--json")
        answer = json.loads(compose.call([BIN / "vireo", *command, VIEWER]))
        assert answer["items"]
        assert not answer.get("degradations")
        for name in ("gateway", *PODS):
            assert compose.containers[name].stop() == 0, compose.containers[name].log()
    assert_only_declared_folders_were_written(compose)


def publish(compose: Compose, home: Path) -> None:
    """Publish the home's release to the S3 server, as `vireo release publish` of anybody does."""
    compose.call(
        [BIN / "vireo", "release", "publish", "--data", DATASET],
        VIREO_HOME=str(home),
        VIREO_S3_ENDPOINT=f"{compose.address('s3')}:8333",
        VIREO_S3_ACCESS_KEY=VARIABLES["VIREO_S3_ACCESS_KEY"],
        VIREO_S3_SECRET_KEY=VARIABLES["VIREO_S3_SECRET_KEY"],
    )


def assert_only_declared_folders_were_written(compose: Compose) -> None:
    """The images' declared volumes are all that the file mounts."""
    for name, service in compose.services.items():
        declared = compose.images[service["image"]].config.get("Volumes") or {}
        mounted = {text.split(":")[1] for text in service.get("volumes", ())}
        assert mounted == set(declared), name


def test_every_service_is_as_restricted_as_it_can_be() -> None:
    for name, service in read_compose(VARIABLES)["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "user" not in service, name  # the image's


def test_only_the_edge_is_published_and_only_on_this_machine() -> None:
    published = {
        name: service["ports"]
        for name, service in read_compose(VARIABLES)["services"].items()
        if "ports" in service
    }
    assert published == {"edge": ["127.0.0.1:8080:8080"]}


def test_the_images_are_those_that_are_built_of_these_files() -> None:
    for service in read_compose(VARIABLES)["services"].values():
        assert service["image"] == build.image(service["build"]["target"])


def test_the_control_plane_is_told_the_addresses_that_pods_have() -> None:
    services = read_compose(VARIABLES)["services"]
    document = EndpointsDocument.model_validate_json(
        services["control"]["environment"]["VIREO_ENDPOINTS"]
    )

    def addresses(kind: str, port: int) -> list[str]:
        return [
            f"{service['networks']['default']['ipv4_address']}:{port}"
            for name, service in services.items()
            if name.partition("-")[0] == kind
        ]

    assert list(document.candidate.production) == addresses("candidate", 8120)
    assert list(document.ranking.production) == addresses("ranking", 8130)
    assert list(document.gateway.production) == addresses("edge", 8140)
    assert services["gateway"]["network_mode"] == "service:edge"


def test_without_its_secrets_the_file_is_refused() -> None:
    with pytest.raises(KeyError):
        read_compose({})


def test_a_collector_is_named_to_every_process_of_slates_and_events() -> None:
    endpoint = "http://collector:4317"
    services = read_compose({**VARIABLES, "VIREO_OTLP_ENDPOINT": endpoint})["services"]
    told = {
        name
        for name, service in services.items()
        if service.get("environment", {}).get("VIREO_OTLP_ENDPOINT") == endpoint
    }
    assert told == {"control", *PODS, "gateway", "consumer"}
