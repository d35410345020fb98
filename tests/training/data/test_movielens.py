from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.movielens import (
    fetch_movielens,
    ml_1m_tables,
    ml_100k_tables,
    read_packaged_files,
)

INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n2\t1\t3\t20\n1\t1\t5\t10\n"
ITEM = (
    b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    b'1\tThe "Net"\t1995\tSci-Fi Thriller\n2\tunknown\tunkonwn\tunknown\n'
)
USER = (
    b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    b"1\t24\tM\ttechnician\t85711\n2\t56\tF\tother\t0\n3\t7\tF\tnone\t0\n"
)


def test_ml_100k_keeps_titles_years_genres_and_people() -> None:
    ratings, videos, viewers = ml_100k_tables(INTER, ITEM, USER)
    interactions = ratings.to_pandas()
    assert interactions["row"].tolist() == [2, 1]
    assert interactions["viewer_id"].tolist() == ["1", "2"]
    assert interactions["rating"].tolist() == [5, 3]
    assert not interactions["held_out"].any()
    assert videos.to_pydict() == {
        "video_id": ["1", "2"],
        "title": ['The "Net"', "unknown"],
        "tags": [["Sci-Fi", "Thriller"], []],
        "published": [pd.Timestamp("1995-01-01", tz="UTC"), None],
        "attribute.year": [1995.0, None],
    }
    assert viewers["attributes"].to_pylist() == [
        ["age=18-24", "gender=M", "occupation=technician"],
        ["age=56+", "gender=F", "occupation=other"],
        ["age=under-18", "gender=F", "occupation=none"],
    ]


def test_ml_1m_puts_test_ratings_after_training_ratings_of_the_same_time() -> None:
    ratings, videos, _ = ml_1m_tables(b"0\t10\t4\t100\n0\t2\t4\t50\n", b"0\t3\t5\t100\n")
    interactions = ratings.to_pandas()
    assert interactions["video_id"].tolist() == ["2", "10", "3"]
    assert interactions["row"].tolist() == [2, 1, 3]
    assert interactions["held_out"].tolist() == [False, False, True]
    assert videos["title"].to_pylist() == ["2", "3", "10"]


def test_files_come_out_of_a_wheel_that_is_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, info = b"7 seas", "carrier-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "carrier-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carrier/data.txt", content)
        archive.writestr("carrier/__init__.py", "raise SystemExit('imported')")
        metadata = "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    file = {"carrier/data.txt": hashlib.sha256(content).hexdigest()}
    assert read_packaged_files("carrier==1.0", file, tmp_path / "scratch") == [content]
    other = dict.fromkeys(file, hashlib.sha256(b"8 seas").hexdigest())
    with pytest.raises(VireoError, match=r"carrier/data.txt of carrier==1.0 is not the file"):
        read_packaged_files("carrier==1.0", other, tmp_path / "scratch2")
    with pytest.raises(VireoError, match=r"carrier==1.0 has no file x"):
        read_packaged_files("carrier==1.0", {"x": ""}, tmp_path / "scratch3")


def test_a_failed_download_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    home = Home(tmp_path / "home")
    with pytest.raises(VireoError, match=r"pip could not download recbole==1.2.1: .*network"):
        fetch_movielens(home, "ml-100k")
    assert list(home.root.iterdir()) == []
    with pytest.raises(VireoError, match=r"ml-20m can't be fetched; choose one of: ml-100k, ml-1m"):
        fetch_movielens(home, "ml-20m")
