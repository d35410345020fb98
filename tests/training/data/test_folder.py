from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.home import Home, keep_private
from vireo.training.data.folder import remove_abandoned_drafts, replaced_folder
from vireo.training.fit import train_all


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "data"
    target.mkdir()
    (target / "old.txt").touch()
    return target


def test_ctrl_c_between_the_two_renames_leaves_the_old_folder(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def stopped(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if path == target:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr("vireo.training.data.folder._exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), replaced_folder(target) as draft:
        (draft / "new.txt").touch()
    assert names(target.parent) == {"data"}
    assert names(target) == {"old.txt"}


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


def test_all_of_a_home_is_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    home.data("small").mkdir(parents=True)
    home.data("small").chmod(0o755)  # as earlier builds left it
    home.root.chmod(0o755)
    write_small_dataset(home, "small", random_interactions())
    of_data = home.data("small")
    assert {mode(home.root), mode(of_data), mode(of_data.parent)} == {0o700}
    home.root.chmod(0o755)
    monkeypatch.setattr("vireo.training.fit.measuring_home", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_all(home, "small", "quick", console=Console(file=io.StringIO()))
    assert mode(home.root) == 0o700


def test_a_home_that_is_somebody_elses_or_everybodys_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    keep_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
    tmp_path.chmod(0o775)
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    keep_private(tmp_path)
    assert mode(tmp_path) == 0o775


KILLED = """
import os, pathlib, sys
from vireo.training.data import folder
with folder.replaced_folder(pathlib.Path(sys.argv[1])) as draft:
    (draft / "new.txt").touch()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_and_what_another_one_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "data"
    for each in (target, tmp_path / "other"):
        done = subprocess.run([sys.executable, "-c", KILLED, each], check=False)
        assert done.returncode == -9
    (tmp_path / ".data.mine").mkdir()
    [left] = tmp_path.glob(".data.draft.*")
    with replaced_folder(target) as mine:
        assert not left.exists()
        (mine / "mine.txt").touch()
        with replaced_folder(target) as draft:
            (draft / "new.txt").touch()
    assert names(target) == {"mine.txt"}
    assert {name[:12] for name in names(tmp_path)} == {"data", ".data.mine", ".other.draft"}
    remove_abandoned_drafts(tmp_path)
    assert names(tmp_path) == {"data", ".data.mine"}


def test_the_last_copy_of_a_folder_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (tmp_path / ".data.draft.1" / "old" / "kept").mkdir(parents=True)
    remove_abandoned_drafts(tmp_path)
    assert names(target) == {"kept"}
    (tmp_path / ".data.draft.2" / "old").mkdir(parents=True)
    remove_abandoned_drafts(tmp_path)
    assert names(tmp_path) == {"data"}
    assert names(target) == {"kept"}
