from __future__ import annotations

from pathlib import Path

import pytest

from training.data.folder import replaced_folder


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
