from pathlib import Path

from tests.builders.releases import build_release
from vireo.server.releases.diff import FileChange, diff_releases
from vireo.server.releases.manifest import FileEntry, Manifest


def test_files_metrics_and_settings_of_only_one_release_are_listed(tmp_path: Path) -> None:
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


def test_settings_include_feature_schema_and_holdout(tmp_path: Path) -> None:
    before = Manifest.read(build_release(tmp_path))
    schema = before.feature_schema.model_copy(update={"history_limit": 50})
    after = before.model_copy(update={"feature_schema": schema, "holdout": "none"})
    assert diff_releases(before, after).settings == {
        "feature_schema.history_limit": (20, 50),
        "holdout": ("last", "none"),
    }
