from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from tests.builders.damage import Damage, content, index, missing, table, texts
from tests.builders.releases import build_release
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError


def test_release_needs_no_ranker_and_no_goldens(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    for path in (layout.RANKER, layout.GOLDEN_RANKER, layout.GOLDEN_VIEWER_TOWER):
        (folder / path).unlink()
    assert len(CandidateRelease.load(folder).ids) == 40


def test_goldens_of_the_viewer_tower_are_replayed(tmp_path: Path) -> None:
    release = CandidateRelease.load(build_release(tmp_path))
    release.replay_goldens()
    other = build_release(tmp_path / "other", seed=1)
    (other / layout.GOLDEN_VIEWER_TOWER).replace(tmp_path / layout.GOLDEN_VIEWER_TOWER)
    with pytest.raises(ReleaseError, match="differs from the recorded outputs"):
        release.replay_goldens()


ZEROS = np.zeros((40, 8), np.float32)
VECTORS = np.random.default_rng(0).random((40, 8), np.float32)
OTHERS = [f"other-{row}" for row in range(40)]


def cells() -> Any:
    """An empty index with two cells."""
    return faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 2, faiss.METRIC_INNER_PRODUCT)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            table(layout.VIDEO_VECTORS, ZEROS[:39]),
            r"vectors\.npy: is float32\[39, 8\], not float32 or float16\[40, 8\]",
        ),
        (
            table(layout.POPULARITY, np.zeros(40)),
            r"popularity\.npy: is float64\[40\], not float32\[40\]",
        ),
        (
            index(faiss.IndexFlatIP(8), ZEROS[:3]),
            r"index\.faiss: has 3 vectors, the release has 40 videos",
        ),
        (
            index(cells(), VECTORS, np.arange(-1, 39)),
            r"index\.faiss: names row -1, the release has rows",
        ),
        (
            table(layout.CO_WATCH_ROWS, np.full((40, 6), 40, np.int32)),
            r"co_watch_rows\.npy: names row 40, the release has rows 0 to 39",
        ),
        (
            table(layout.EASE_ROWS, np.full((40, 4), -1, np.int32)),
            r"ease_rows\.npy: names row -1, the release has rows 0 to 39",
        ),
        (
            table(layout.FRESH_ROWS, np.array([3, 77])),
            r"fresh_rows\.npy: names row 77, the release has rows 0 to 39",
        ),
        (texts(layout.VIDEO_IDS, OTHERS), r"ids\.bin: 'other-0' doesn't have the key of row 0"),
        (
            index(faiss.IndexFlatL2(8), ZEROS),
            r"index\.faiss: the index must search by inner product",
        ),
        (content(layout.VIDEO_INDEX, "garbage"), r"index\.faiss: faiss can't read the index"),
        (missing(layout.VIDEO_KEYS), r"keys\.npy: can't be read as a table: .*No such file"),
    ],
)
def test_damaged_release_is_refused_by_the_file(
    tmp_path: Path, damage: Damage, message: str
) -> None:
    folder = build_release(tmp_path)
    damage(folder)
    with pytest.raises(ReleaseError, match=message):
        CandidateRelease.load(folder)
