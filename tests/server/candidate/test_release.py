from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from tests.builders.releases import build_release
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.texts import write_texts


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


def short_vectors(folder: Path) -> None:
    np.save(folder / layout.VIDEO_VECTORS, np.zeros((39, 8), np.float32))


def double_popularity(folder: Path) -> None:
    np.save(folder / layout.POPULARITY, np.zeros(40, np.float64))


def infinite_vectors(folder: Path) -> None:
    np.save(folder / layout.VIDEO_VECTORS, np.full((40, 8), np.inf, np.float32))


def small_index(folder: Path) -> None:
    index = faiss.IndexFlatIP(8)
    index.add(np.zeros((3, 8), np.float32))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def narrow_index(folder: Path) -> None:
    index = faiss.IndexFlatIP(4)
    index.add(np.zeros((40, 4), np.float32))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def index_of_other_ids(folder: Path) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(8))
    index.add_with_ids(np.zeros((40, 8), np.float32), np.arange(101, 141))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def approximate_index_of_other_ids(folder: Path) -> None:
    quantizer = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFFlat(quantizer, 8, 2, faiss.METRIC_INNER_PRODUCT)
    vectors = np.random.default_rng(0).random((40, 8), np.float32)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(-1, 39))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def co_watch_beyond(folder: Path) -> None:
    np.save(folder / layout.CO_WATCH_ROWS, np.full((40, 6), 40, np.int32))


def ease_before(folder: Path) -> None:
    np.save(folder / layout.EASE_ROWS, np.full((40, 4), -1, np.int32))


def fresh_beyond(folder: Path) -> None:
    np.save(folder / layout.FRESH_ROWS, np.array([3, 77]))


def ids_of_other_videos(folder: Path) -> None:
    write_texts(folder / layout.VIDEO_IDS, [f"other-{row}" for row in range(40)])


def euclidean_index(folder: Path) -> None:
    index = faiss.IndexFlatL2(8)
    index.add(np.zeros((40, 8), np.float32))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))


def garbage_index(folder: Path) -> None:
    (folder / layout.VIDEO_INDEX).write_bytes(b"garbage")


def missing_keys(folder: Path) -> None:
    (folder / layout.VIDEO_KEYS).unlink()


def pickled_keys(folder: Path) -> None:
    np.save(folder / layout.VIDEO_KEYS, np.array([{}], object), allow_pickle=True)


def too_few_ids(folder: Path) -> None:
    write_texts(folder / layout.VIDEO_IDS, ["only one"])


def ids_cut_short(folder: Path) -> None:
    file = folder / layout.VIDEO_IDS
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (short_vectors, r"vectors\.npy: is float32\[39, 8\], not float32 or float16\[40, 8\]"),
        (double_popularity, r"popularity\.npy: is float64\[40\], not float32\[40\]"),
        (infinite_vectors, r"vectors\.npy: has values that aren't finite"),
        (small_index, r"index\.faiss: has 3 vectors, the release has 40 videos"),
        (narrow_index, r"index\.faiss: has vectors of 4 dimensions, feature_schema\.vector_size"),
        (index_of_other_ids, r"index\.faiss: names row 140, the release has rows 0 to 39"),
        (approximate_index_of_other_ids, r"index\.faiss: names row -1, the release has rows"),
        (co_watch_beyond, r"co_watch_rows\.npy: names row 40, the release has rows 0 to 39"),
        (ease_before, r"ease_rows\.npy: names row -1, the release has rows 0 to 39"),
        (fresh_beyond, r"fresh_rows\.npy: names row 77, the release has rows 0 to 39"),
        (ids_of_other_videos, r"ids\.bin: 'other-0' doesn't have the key of row 0"),
        (euclidean_index, r"index\.faiss: the index must search by inner product"),
        (garbage_index, r"index\.faiss: faiss can't read the index"),
        (missing_keys, r"keys\.npy: can't be read as a table: .*No such file"),
        (pickled_keys, r"keys\.npy: can't be read as a table"),
        (too_few_ids, r"ids\.bin: has 1 texts instead of 40"),
        (ids_cut_short, r"ids\.bin: can't be read as texts: its offsets don't fit its size"),
    ],
)
def test_damaged_release_is_refused_by_the_file(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = build_release(tmp_path)
    damage(folder)
    with pytest.raises(ReleaseError, match=message):
        CandidateRelease.load(folder)
