from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pydantic import SecretStr

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce, EventRules
from vireo.server.features.online_store import RedisSettings, read_viewer
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION, describe_dataset
from vireo.training.data.split import LIKED_FRACTION
from vireo.training.features.build import build_features
from vireo.training.features.definitions import write_configuration
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.viewers import PastViewers
from vireo.training.features.watches import FeaturesMissingError, Split, load_watches

TABLES = ("viewer_profile", "viewer_activity", "video_statistics")


def contents(repo: Path) -> dict[str, bytes]:
    return {name: (repo / f"{name}.parquet").read_bytes() for name in TABLES}


def test_a_rebuild_gives_the_same_tables_and_values(
    repo: Path, interactions: pd.DataFrame, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    for holdout in ("none", "last"):
        build_features(home, "small", holdout)
    rebuilt = home.features("small")
    assert contents(rebuilt) == contents(repo)
    for viewer in ("w0", "w1", "w2"):
        assert read_viewer(rebuilt, viewer) == read_viewer(repo, viewer)
    assert {path.name for path in rebuilt.parent.iterdir()} == {"small", ".small.builds"}


def test_a_failed_build_leaves_the_earlier_features(
    interactions: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    build_features(home, "small")
    before = contents(home.features("small"))
    write_small_dataset(home, "small", interactions.assign(event="hide"))
    with pytest.raises(VireoError, match=r"small has no watches to train on"):
        build_features(home, "small")
    monkeypatch.setenv("VIREO_ONLINE_STORE", "mongo")
    with pytest.raises(VireoError, match=r"VIREO_ONLINE_STORE: .* 'sqlite' or 'redis'"):
        build_features(home, "small")
    assert contents(home.features("small")) == before
    left = {path.name for path in home.features("small").parent.iterdir()}
    assert left == {"small", ".small.builds"}


def test_features_can_be_moved_and_read_from_any_working_directory(
    repo: Path, watches: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(repo, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert read_viewer(Path("moved"), "w1") == read_viewer(repo, "w1")
    last = watches.groupby("viewer_id").tail(1)[["viewer_id", "time"]]
    here, there = (PastViewers(folder).before(last) for folder in (Path("moved"), repo))
    assert [viewer.watch_count for viewer in here] == [viewer.watch_count for viewer in there]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]


def test_a_gateway_needs_three_files_alone(repo: Path, tmp_path: Path) -> None:
    for name in ("feature_store.yaml", "registry.db", "online.db"):
        shutil.copy(repo / name, tmp_path / name)
    assert read_viewer(tmp_path, "w1") == read_viewer(repo, "w1")


def test_progress_reaches_the_end_of_every_step(interactions: pd.DataFrame, tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    reached: dict[str, tuple[int, int]] = {}
    build_features(home, "small", progress=lambda step, *at: reached.__setitem__(step, at))
    assert list(reached) == ["split", "video statistics", "online store"]
    assert all(done == total > 0 for done, total in reached.values())


def test_missing_features_name_the_command_that_builds_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(FeaturesMissingError, match=r"vireo features build --data small"):
        load_watches(home, "small")
    with pytest.raises(FeaturesMissingError, match=r"vireo features build --data small"):
        Split.load(home, "small")
    with pytest.raises(VireoError, match=r"vireo features build --data small"):
        read_viewer(home.features("small"), "w1")


def test_events_count_by_the_rules_of_the_data_set(tmp_path: Path) -> None:
    home, bounce = Home(tmp_path), Bounce(fraction=0.1)
    write_small_dataset(home, "small", random_interactions())
    info = describe_dataset(home, "small").model_copy(update={"bounce": bounce})
    (home.data("small") / DESCRIPTION).write_text(info.model_dump_json())
    build_features(home, "small")
    rules = EventRules.load(home.features("small"))
    assert rules == EventRules(liked_fraction=LIKED_FRACTION, bounce=bounce)


def test_features_in_redis_say_neither_where_it_is_nor_how_to_sign_in(tmp_path: Path) -> None:
    redis = RedisSettings(url=SecretStr("redis://:secret@cache/3"))
    settings = OnlineStoreSettings(online_store="redis", redis=redis)
    write_configuration(tmp_path, "ml-100k", settings)
    online = yaml.safe_load((tmp_path / "feature_store.yaml").read_text())["online_store"]
    assert online == {"type": "redis", "key_ttl_seconds": 365 * 86_400}
