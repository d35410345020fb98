from __future__ import annotations

from pathlib import Path

import pytest

from server.home import Home
from tests.builders.datasets import random_interactions, write_small_dataset
from training.data.folder import replaced_folder
from training.features.build import build_features


def test_ctrl_c_between_the_two_renames_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "old.txt").touch()
    rename = Path.rename

    def stopped(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if path == target:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), replaced_folder(target) as draft:
        (draft / "new.txt").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in target.iterdir()] == ["old.txt"]


def test_data_and_features_are_for_their_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folders = [home.data("small"), home.features("small")]
    for folder in folders:  # as earlier builds left them
        folder.mkdir(parents=True)
        for each in (folder, folder.parent):
            each.chmod(0o755)
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", "none")
    for folder in folders:
        assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700] * 2


def test_the_root_of_somebody_elses_volume_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o775)
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with replaced_folder(tmp_path / "data", private=True):
        pass
    assert tmp_path.stat().st_mode & 0o777 == 0o775
