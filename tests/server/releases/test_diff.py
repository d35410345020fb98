from pathlib import Path

from server.releases.diff import FileChange, diff_releases
from server.releases.manifest import FileEntry, Manifest
from server.releases.precision import ModelPrecision, Precisions
from tests.builders.releases import build_release


def test_files_metrics_and_settings_that_only_one_release_has_are_told(tmp_path: Path) -> None:
    before = Manifest.read(build_release(tmp_path))
    files = dict(before.files)
    lost = files.pop("popular.json")
    files["new.bin"] = FileEntry(size=3, sha256="0" * 64)
    after = before.model_copy(
        update={"release_id": "b", "files": files, "metrics": {"chain.ndcg_10": 0.1}}
    )
    found = diff_releases(before, after)
    assert (found.before, found.after) == ("tiny-1", "b")
    assert found.files == (
        FileChange("new.bin", "added", None, 3),
        FileChange("popular.json", "removed", lost.size, None),
    )
    assert found.unchanged_files == len(before.files) - 1
    assert found.metrics == {"chain.ndcg_10": (None, 0.1)}
    assert found.settings == {}


def test_what_the_models_were_made_of_is_among_the_settings(tmp_path: Path) -> None:
    before = Manifest.read(build_release(tmp_path))
    schema = before.feature_schema.model_copy(update={"history_limit": 50})
    after = before.model_copy(update={"feature_schema": schema, "holdout": "none"})
    assert diff_releases(before, after).settings == {
        "feature_schema.history_limit": (20, 50),
        "holdout": ("last", "none"),
    }


def test_a_models_precision_is_among_the_settings_and_its_measures_are_not(tmp_path: Path) -> None:
    before = Manifest.read(build_release(tmp_path))
    tower = ModelPrecision(chosen="int8", why="it is faster", viewers=200)
    ranker = ModelPrecision(why="it is no faster", viewers=200)
    precision = Precisions(viewer_tower=tower, ranker=ranker)
    after = before.model_copy(update={"precision": precision})
    assert diff_releases(before, after).settings == {"precision.viewer_tower": ("float32", "int8")}
