"""A checkpoint is there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vireo.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    write_checkpoint,
)


def test_a_state_is_read_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "training.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"epoch": 1})
    assert read_checkpoint(path) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_checkpoint(path, {"epoch": 1})
    (tmp_path / "training.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        write_checkpoint(path, {"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(path) == {"epoch": 1}


def test_a_checkpoint_of_other_inputs_is_ignored_and_a_damaged_one_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").write("linear", {"epoch": 3})
    assert Checkpoints(tmp_path, "other").read("linear") is None
    assert Checkpoints(tmp_path, "one").read("linear") == {"epoch": 3}
    (tmp_path / "ranking_linear.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"ranking_linear\.pt is damaged; delete it"):
        Checkpoints(tmp_path, "one").read("linear")
