"""The release that training stages: its manifest and tables, new videos, and models' signatures."""

from __future__ import annotations

import json
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from google.protobuf import text_format

from tests.builders.datasets import VIDEO_COUNT
from tests.builders.watches import EPOCH, videos_frame, viewers_frame, watches_frame
from vireo.inference.model_config_pb2 import DataType, ModelConfig
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import (
    CANDIDATES,
    DATA_END,
    Manifest,
    Quotas,
    ReleaseError,
    describe_files,
)
from vireo.server.releases.tables import read_mapped_texts
from vireo.training.data.dataset import load_dataset
from vireo.training.features.statistics import latest
from vireo.training.ranking.training_set import RankingSet
from vireo.training.release import stage
from vireo.training.release.stage import (
    DRAFT,
    FRESH_DAYS,
    FRESH_WATCHES,
    creator_keys,
    finish_release,
    fresh_rows,
)
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.neighbours import EASE_NEIGHBOURS


@pytest.fixture(scope="module")
def folder(trained_home: Home) -> Path:
    return trained_home.staged_release("trained")


def test_the_manifest_describes_every_file(folder: Path, manifest: Manifest) -> None:
    assert manifest.files == describe_files(folder)
    # This data has no languages, and nothing was taken down.
    absent = {"MEASURED", "LANGUAGES", "TAKEDOWNS"}
    names = {name for name in vars(layout) if name.isupper()} - absent
    paths = {getattr(layout, name) for name in names}
    assert {path for path in paths if isinstance(path, str)} == set(manifest.files)


def test_the_release_says_when_it_was_made_and_of_what(
    manifest: Manifest, trained_home: Home
) -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", manifest.release_id)
    assert manifest.release_id.startswith(f"{manifest.created_at:%Y%m%d-%H%M%S}")
    dataset = load_dataset(trained_home, "trained")
    assert (manifest.dataset, manifest.holdout) == ("trained", "last")
    assert manifest.data_fingerprint == dataset.info.fingerprint
    assert manifest.architecture == platform.machine()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", manifest.code_commit)
    assert {"chain.ndcg_10", "ease.ndcg_10", "ranker.like_auc"} <= set(manifest.metrics)
    assert manifest.metrics[DATA_END] == dataset.info.last.timestamp()


def test_the_release_states_how_many_candidates_its_ranker_was_trained_on(
    manifest: Manifest, ranking_set: RankingSet
) -> None:
    assert manifest.candidates == ranking_set.watches.rows.shape[1] == VIDEO_COUNT != CANDIDATES


def test_tables_follow_the_order_of_the_catalogue(folder: Path, trained_home: Home) -> None:
    videos = load_dataset(trained_home, "trained").videos
    ids, repo = videos["video_id"].tolist(), trained_home.features("trained")
    assert list(read_mapped_texts(folder / layout.VIDEO_IDS, len(ids))) == ids
    titles = read_mapped_texts(folder / layout.VIDEO_TITLES, len(ids))
    assert list(titles) == videos["title"].tolist()
    features, popularity = latest(repo, ids)
    assert np.array_equal(np.load(folder / layout.VIDEO_FEATURE_TABLE), features)
    assert np.array_equal(np.load(folder / layout.POPULARITY), popularity)
    popular = json.loads((folder / layout.POPULAR_IDS).read_text())
    by_id = dict(zip(ids, popularity, strict=True))
    ranked = [by_id[video_id] for video_id in popular]
    assert ranked == sorted(ranked, reverse=True)


def test_tables_of_the_sources_name_videos_and_content_vectors_have_length_1_or_none(
    folder: Path, manifest: Manifest, release: CandidateRelease
) -> None:
    for rows in (release.ease_rows, release.fresh_rows):
        assert ((rows >= 0) & (rows < VIDEO_COUNT)).all()
    assert len(np.unique(release.fresh_rows)) == len(release.fresh_rows)
    assert release.ease_rows.shape == (VIDEO_COUNT, min(EASE_NEIGHBOURS, VIDEO_COUNT))
    assert release.ease_weights.any()
    assert manifest.quotas == Quotas()
    lengths = np.linalg.norm(np.load(folder / layout.CONTENT_VECTORS), axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    assert lengths.any()


def test_creators_have_the_keys_of_their_names_and_unknown_ones_none() -> None:
    keys = creator_keys(pd.Series(["Ann", None, "", "Ben", "Ann"]))
    assert keys.tolist() == [video_key("Ann"), -1, -1, video_key("Ben"), video_key("Ann")]


def test_goldens_hold_short_full_and_empty_histories(folder: Path) -> None:
    with np.load(folder / layout.GOLDEN_RANKER) as golden:
        lengths = golden["input/history_lengths"]
        assert golden["output/scores"].shape[0] == len(lengths) >= 8
        assert golden["output/scores"].std() > 0
    assert lengths.min() == 0
    assert len(np.unique(lengths)) > 4
    with np.load(folder / layout.GOLDEN_VIEWER_TOWER) as golden:
        assert golden["input/lengths"].min() == 0
        assert (golden["input/attributes"][1] == 0).all()


def test_a_finished_release_replaces_the_previous_one(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    draft = shutil.copytree(folder, tmp_path / "draft")
    manifest.model_copy(update={"release_id": DRAFT, "files": {}}).write(draft)
    (draft / layout.POPULAR_IDS).write_text("[]")
    target = shutil.copytree(folder, tmp_path / "release")
    (target / "left over").touch()
    finished = finish_release(draft, target, {"chain.ndcg_10": 0.5})
    assert Manifest.read(target) == finished
    assert finished.files == describe_files(target)
    assert finished.release_id[-8:] != manifest.release_id[-8:], "other files, another digest"
    assert not draft.exists()


def test_a_release_that_cant_be_finished_leaves_the_one_before(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    target = shutil.copytree(folder, tmp_path / "release")
    (tmp_path / "draft").mkdir()
    with pytest.raises(ReleaseError):
        finish_release(tmp_path / "draft", target, {})
    assert Manifest.read(target) == manifest
    assert manifest.files == describe_files(target)


def catalogue(
    published: dict[str, int], watches: dict[str, int]
) -> tuple[RetrievalData, list[str]]:
    """Videos a to h, published some days before the last watch, with a number of viewers each.

    The last watch is one of "h", which everyone begins with.
    """
    ids = list("abcdefgh")
    videos = videos_frame(ids)
    dates = [EPOCH - pd.Timedelta(days=published[key]) if key in published else None for key in ids]
    videos["published"] = pd.Series(dates, dtype="datetime64[us, UTC]")
    viewers = {
        str(viewer): ["h", *[key for key, count in watches.items() if viewer < count]]
        for viewer in range(FRESH_WATCHES + 5)
    }
    data = RetrievalData.build(watches_frame(viewers, held_out=0), videos, viewers_frame({}))
    return data, [ids[row] for row in fresh_rows(data, videos)]


MANY, SOME = dict.fromkeys("abcdefg", FRESH_WATCHES + 1), dict.fromkeys("efg", 12)
FEW = {"a": 3, "b": 1, "c": FRESH_WATCHES, "e": FRESH_WATCHES - 1, "f": 12, "g": 12}


@pytest.mark.parametrize(
    ("published", "watches", "fresh"),
    [
        # New videos come first, the newest of them before the others.
        ({"a": 5, "b": 2, "c": FRESH_DAYS + 2, "d": -3}, MANY, "dba"),
        # Hardly watched videos follow, the fewest watched first.
        ({"a": 1}, FEW, "adbe"),
        # Of equally watched ones the newest comes first, and those without a date last.
        ({"a": 900, "b": 400, "c": 600}, SOME, "bcad"),
    ],
)
def test_fresh_videos_are_the_new_and_the_hardly_watched(
    published: dict[str, int], watches: dict[str, int], fresh: str
) -> None:
    assert "".join(catalogue(published, watches)[1]) == fresh


def test_no_more_than_the_limit_and_undated_videos_by_their_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, undated = catalogue({}, SOME)
    assert undated == sorted("abcd", key=lambda video: data.keys["abcd".index(video)])
    monkeypatch.setattr(stage, "FRESH_LIMIT", 2)
    data, found = catalogue({}, SOME)
    assert found == undated[:2]
    assert fresh_rows(data, videos_frame(list("abcdefgh"))).dtype == np.int64


OF_ONNX = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
MODELS = {
    layout.VIEWER_TOWER_CONFIG: layout.VIEWER_TOWER,
    layout.VIDEO_TOWER_CONFIG: layout.VIDEO_TOWER,
    layout.RANKER_CONFIG: layout.RANKER,
}


def signature(value: Any) -> tuple[str, str, list[int]]:
    """Name, type and dimensions of what ONNX Runtime says of a tensor."""
    dims = [size if isinstance(size, int) else -1 for size in value.shape]
    return value.name, OF_ONNX[value.type], dims


@pytest.mark.parametrize("config_path", MODELS)
def test_a_release_is_a_triton_model_repository(config_path: str, folder: Path) -> None:
    config = text_format.Parse((folder / config_path).read_text(), ModelConfig())
    session = onnxruntime.InferenceSession(str(folder / MODELS[config_path]))
    assert config.name == config_path.split("/")[0]
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 0
    for tensors, values in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        declared = [(each.name, DataType.Name(each.data_type), [*each.dims]) for each in tensors]
        assert declared == list(map(signature, values))
        assert all(dims[0] == -1 for _, _, dims in declared), "any size of batch will do"
