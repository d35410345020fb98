from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from server.errors import VireoError
from training.features.online_store import OnlineStoreSettings, redis_connection
from training.features.repository import write_configuration


@pytest.mark.parametrize(
    ("url", "connection"),
    [
        ("redis://127.0.0.1:6380/2", "127.0.0.1:6380,db=2"),
        ("redis://cache", "cache:6379,db=0"),
        (
            "rediss://me:p%40ss@cache/1",
            'cache:6379,db=1,username="me",password="p@ss",ssl=true',
        ),
        ("redis://:12345@cache", 'cache:6379,db=0,password="12345"'),
    ],
)
def test_redis_urls_become_feasts_connection_strings(url: str, connection: str) -> None:
    assert redis_connection(url) == connection


@pytest.mark.parametrize("url", ["cache:6379", "http://cache", "redis://cache/x", "redis://:a,b@c"])
def test_other_urls_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(VireoError, match=r"VIREO_REDIS_URL must look like") as caught:
        redis_connection(url)
    assert url not in str(caught.value)


def test_the_password_of_redis_is_for_the_owner_alone(tmp_path: Path) -> None:
    settings = OnlineStoreSettings(
        online_store="redis", redis_url=SecretStr("redis://:secret@cache/3")
    )
    write_configuration(tmp_path, "ml-100k", settings)
    path = tmp_path / "feature_store.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    online = yaml.safe_load(path.read_text())["online_store"]
    assert online == {
        "type": "redis",
        "connection_string": 'cache:6379,db=3,password="secret"',
        "key_ttl_seconds": 365 * 86_400,
    }


def test_every_build_has_a_project_of_its_own(tmp_path: Path) -> None:
    projects = set()
    for _ in range(2):
        write_configuration(tmp_path, "ml-100k", OnlineStoreSettings())
        projects.add(yaml.safe_load((tmp_path / "feature_store.yaml").read_text())["project"])
    assert len(projects) == 2
    assert all(project.startswith("vireo_ml_100k_") for project in projects)
