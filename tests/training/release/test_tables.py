"""The attributes of a release are those of its data set, read as pods read them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from tests.builders.datasets import random_interactions
from vireo.server.home import Home
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.releases import layout
from vireo.server.releases.manifest import IndexDescription
from vireo.training.data.dataset import Dataset, load_dataset, write_dataset
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS
from vireo.training.release.tables import (
    NEIGHBOURS,
    RECALL_WANTED,
    build_index,
    min_probes,
    write_attributes,
)


def sample(count: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).normal(size=(40, 16))
    random = np.random.default_rng(seed)
    points = centres[random.integers(40, size=count)] + 0.5 * random.normal(size=(count, 16))
    return points.astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return sample(6000, seed=1)


@pytest.fixture(scope="module")
def approximate(vectors: np.ndarray) -> tuple[faiss.Index, IndexDescription]:
    return build_index(vectors, sample(100, seed=2), exact_limit=1000)


def test_a_small_catalogue_is_searched_exactly(vectors: np.ndarray) -> None:
    index, description = build_index(vectors, sample(5, seed=2))
    query = vectors[:5] * 0.3
    _, rows = index.search(query, 10)
    assert np.array_equal(rows, np.argsort(-(query @ vectors.T), axis=1, kind="stable")[:, :10])
    assert (description.kind, description.recall) == ("exact", 1.0)


def test_a_large_catalogue_is_searched_with_the_recall_that_was_wanted(
    vectors: np.ndarray, approximate: tuple[faiss.Index, IndexDescription], tmp_path: Path
) -> None:
    index, description = approximate
    assert isinstance(index, faiss.IndexIVFScalarQuantizer)
    assert (description.kind, description.cells) == ("ivf_int8", index.nlist)
    assert 1 <= description.probes < index.nlist, "it must search less than everything"
    assert description.recall >= RECALL_WANTED
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    served = VideoIndex.read(tmp_path / "index.faiss", description, *vectors.shape)
    queries = sample(100, seed=3)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :NEIGHBOURS]
    found = [served.nearest(query, NEIGHBOURS, None) for query in queries]
    recall = np.mean([len(np.intersect1d(*pair)) for pair in zip(exact, found, strict=True)])
    assert recall / NEIGHBOURS > RECALL_WANTED - 0.03


def test_few_cells_are_searched_even_if_norms_vary() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(100, 16)) * random.lognormal(sigma=0.5, size=(100, 1))
    points = centres[random.integers(100, size=20_000)] + 0.2 * random.normal(size=(20_000, 16))
    viewers = 3 * centres[random.integers(100, size=100)]
    index, description = build_index(
        points.astype(np.float32), viewers.astype(np.float32), exact_limit=1000
    )
    assert description.probes < index.nlist / 16
    assert description.recall >= RECALL_WANTED


def test_without_viewers_recall_is_measured_near_videos(vectors: np.ndarray) -> None:
    none = np.empty((0, vectors.shape[1]), np.float32)
    assert build_index(vectors, none, exact_limit=1000)[1].queries == 200


@pytest.mark.parametrize("needed", [1, 2, 3, 37, 96, 500])
def test_the_fewest_probes_are_found_within_a_sixteenth(needed: int) -> None:
    found = min_probes(lambda probes: float(probes >= needed), 1.0, 1024)
    assert needed <= found <= needed + max(1, found // 16)


def test_all_cells_are_searched_if_fewer_miss_the_recall() -> None:
    assert min_probes(lambda _: 0.0, 0.9, 24) == 24


def exported(dataset: Dataset, folder: Path, popular: list[int] | None = None) -> AttributeTable:
    (folder / "videos").mkdir(parents=True)
    write_attributes(folder, dataset, np.array(popular or [0]))
    count = dataset.video_columns("video_id").num_rows
    table = AttributeTable.load(folder, count)
    assert table is not None
    return table


@pytest.fixture
def odd(tmp_path: Path) -> Dataset:
    """Values at the edges of what attributes may be."""
    home, count = Home(tmp_path / "home"), 60
    tags: list[list[str]] = [[] for _ in range(count)]
    tags[:4] = [["b", "a", "b"], ["é" * 64, "x" * 129], ["\U0001f600", "\uffff"], ["a=b", ""]]
    videos = {
        "video_id": [f"v{n}" for n in range(count)],
        "title": ["t"] * count,
        "tags": tags,
        "published": [-5_000_000_250_000, 10**17, *[None] * (count - 2)],
        "duration": [9.1, 0.0, *[None] * (count - 2)],
        "creator": ["", None, "ana", *["ben"] * (count - 3)],
        "attribute.a1": [["x"], None, ["x", "y"], *[[]] * (count - 3)],
        "attribute.a": [["x"], *[None] * (count - 1)],
        "attribute.a_b": [["x"], *[None] * (count - 1)],
        "attribute.none": pa.nulls(count, pa.list_(pa.string())),
        "attribute.score": [None, 0.1, -1e300, *[None] * (count - 3)],
    }
    kinds: dict[str, Any] = dict.fromkeys(("a1", "a", "a_b", "none"), "labels")
    fields = [*VIDEOS]
    fields += [pa.field(f"attribute.{name}", pa.list_(pa.string())) for name in kinds]
    fields.append(pa.field("attribute.score", pa.float64()))
    write_dataset(
        home,
        "odd",
        "a test",
        videos=[pa.table(videos, pa.schema(fields))],
        viewers=pa.table({"viewer_id": ["w1"], "attributes": [[]]}, VIEWERS),
        interactions=[
            pa.Table.from_pandas(random_interactions(), INTERACTIONS, preserve_index=False)
        ],
        attributes=kinds | {"score": "number"},
    )
    return load_dataset(home, "odd")


def test_labels_are_sorted_each_once_and_none_is_longer_than_a_filter_may_ask_for(
    odd: Dataset, tmp_path: Path
) -> None:
    table = exported(odd, tmp_path / "release")
    texts = list(table.labels)
    assert texts == sorted(texts, key=str.encode)
    of_tag = {text: table.with_label(text).tolist() for text in texts if text.startswith("tag=")}
    assert of_tag == {
        "tag=a": [0],
        "tag=a=b": [3],
        "tag=b": [0],
        f"tag={'é' * 64}": [1],
        "tag=\uffff": [2],
        "tag=\U0001f600": [2],
    }
    others = [text for text in texts if text not in of_tag]
    assert others == ["a1=x", "a1=y", "a=x", "a_b=x", "creator=ana", "creator=ben"]
    assert [table.with_label(text).tolist() for text in others[:5]] == [[0, 2], [2], [0], [0], [2]]
    assert "none" in table.declared.labels
    assert {"creator", "tag"} < {*table.declared.labels}


def test_numbers_are_as_they_were_written_and_unknown_ones_are_nan(
    odd: Dataset, tmp_path: Path
) -> None:
    table = exported(odd, tmp_path / "release")
    assert table.declared.numbers == ("duration", "published", "score")
    expected = [[9.1, -5_000_000.25, math.nan], [0, 1e11, 0.1], [math.nan, math.nan, -1e300]]
    assert np.array_equal(table.numbers[:3], np.array(expected), equal_nan=True)
    assert np.isnan(table.numbers[3:]).all()


def test_popular_videos_have_their_attributes_in_the_order_of_the_list(
    odd: Dataset, tmp_path: Path
) -> None:
    exported(odd, tmp_path / "release", [2, 5, 0])
    text = (tmp_path / "release" / layout.POPULAR_ATTRIBUTES).read_text()
    assert json.loads(text) == [
        {
            "labels": ["a1=x", "a1=y", "creator=ana", "tag=\uffff", "tag=\U0001f600"],
            "numbers": {"score": -1e300},
        },
        {"labels": ["creator=ben"], "numbers": {}},
        {
            "labels": ["a1=x", "a=x", "a_b=x", "tag=a", "tag=b"],
            "numbers": {"duration": 9.1, "published": -5_000_000.25},
        },
    ]
