"""A checkpoint is there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vireo.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint


def test_a_state_is_read_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "training.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"epoch": 1})
    assert read_checkpoint(path) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_state_that_can_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_checkpoint(path, {"epoch": 1})
    with pytest.raises(AttributeError):
        write_checkpoint(path, {"epoch": 2, "unwritable": lambda: None})
    assert read_checkpoint(path) == {"epoch": 1}


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_checkpoint(path, {"epoch": 1})
    (tmp_path / "training.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        write_checkpoint(path, {"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(path) == {"epoch": 1}


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"training\.pt is damaged; delete it"):
        read_checkpoint(path)
