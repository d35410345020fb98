import pytest

from tests.builders.releases import build_release
from vireo.ops.stack.ports import free_port_base
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore


@pytest.fixture
def port() -> int:
    """One that is free, with those next to it, and that no client is given before it is bound."""
    return free_port_base()


@pytest.fixture(scope="session")
def environment(s3: S3Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of pods that follow a channel with a release."""
    store = ReleaseStore(s3)
    folder = build_release(tmp_path_factory.mktemp("release"), release_id="of-processes")
    store.publish(folder)
    store.change_channel("processes", Change("of-processes"), store.read_channel("processes"))
    cache = tmp_path_factory.mktemp("cache")
    return {
        **s3.environment(),
        "VIREO_CHANNEL": "processes",
        "VIREO_CACHE": str(cache),
        "VIREO_DRAIN_SECONDS": "0.1",
        "VIREO_ACCESS_LOG_SHARE": "0",  # a sampled call would be a line more
    }
