from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from tests.builders.redis import running_redis
from tests.builders.tiny_home import VIEWER, build_tiny_features
from vireo.server.errors import VireoError
from vireo.server.features.online_store import RedisSettings, open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home


@pytest.mark.parametrize(
    "url",
    ["cache:6379", "http://:secret@cache", "redis://cache/x", "redis://c:port", "redis://c?db=3"],
)
def test_other_urls_are_refused_without_showing_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_REDIS_URL", url)
    with pytest.raises(VireoError, match=r"VIREO_REDIS_URL: .* must look like redis://") as caught:
        RedisSettings.load()
    assert url not in str(caught.value)
    with pytest.raises(ValueError, match="must look like") as caught_directly:
        RedisSettings(url=SecretStr(url))
    assert url not in str(caught_directly.value)
    monkeypatch.setenv("VIREO_REDIS_URL", "")
    assert RedisSettings.load() == RedisSettings()


@pytest.mark.integration
def test_features_are_read_where_redis_is_now_with_its_password_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        monkeypatch.setenv("VIREO_ONLINE_STORE", "redis")
        monkeypatch.setenv("VIREO_REDIS_URL", server.url)
        repo = build_tiny_features(Home(tmp_path / "home"))
        redis.Redis(port=server.port).config_set("requirepass", "new")
        now = RedisSettings(url=SecretStr(server.url.replace("//", "//:new@")))
        rows = open_rows(repo, 5, now)
        [row] = rows.read([VIEWER])
        rows.close()
        assert isinstance(row, ViewerRow)
        reader = FeatureReader(repo, 5, now)
        viewer = asyncio.run(reader.read(VIEWER, 5))
        assert list(viewer.watched_keys) == [*row.watched]
        # As docs/data.md says, a gateway's user needs no more.
        admin = redis.Redis(port=server.port, password="new")
        admin.acl_setuser(
            "gateway", enabled=True, passwords=["+p"], keys=["*"], commands=["+get", "+hmget"]
        )
        bare = RedisSettings(url=SecretStr(server.url.replace("//", "//gateway:p@")))
        assert asyncio.run(FeatureReader(repo, 5, bare).read(VIEWER, 5)) == viewer
        with pytest.raises(VireoError, match="AuthenticationError"):
            FeatureReader(repo, 5)
