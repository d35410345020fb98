from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import SecretStr

from vireo.server.features.online_store import RedisSettings
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.repository import write_configuration


def test_features_in_redis_say_neither_where_it_is_nor_how_to_sign_in(tmp_path: Path) -> None:
    redis = RedisSettings(url=SecretStr("redis://:secret@cache/3"))
    settings = OnlineStoreSettings(online_store="redis", redis=redis)
    write_configuration(tmp_path, "ml-100k", settings)
    online = yaml.safe_load((tmp_path / "feature_store.yaml").read_text())["online_store"]
    assert online == {"type": "redis", "key_ttl_seconds": 365 * 86_400}
