from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders.catalogue import removed, restored
from vireo.server.errors import VireoError
from vireo.server.event_log.log import Entry
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.v1.log_pb2 import CatalogChange


def keys(*names: str) -> list[int]:
    return [video_key(name) for name in names]


def down_of(takedowns: Takedowns, *names: str) -> list[str]:
    """Those of some videos that are taken down, asked in both ways."""
    found = takedowns.among(keys(*names))
    down = [name for name in names if video_key(name) in found]
    assert down == [name for name in names if video_key(name) in takedowns]
    return down


def test_the_latest_state_of_a_video_counts() -> None:
    takedowns = Takedowns()
    assert down_of(takedowns, "a", "b") == []
    assert takedowns.take([removed(1, "a"), removed(2, "b"), removed(3, "c")]) == keys(*"abc")
    assert takedowns.take([restored(4, "b"), removed(5, "d")]) == keys(*"bd")
    takedowns.take([restored(6, "a"), removed(7, "a"), restored(8, "never removed")])

    assert down_of(takedowns, "a", "b", "c", "d", "e", "never removed") == ["a", "c", "d"]
    assert takedowns.keys.tolist() == sorted(keys(*"acd"))


def test_what_isnt_a_takedown_is_passed_over() -> None:
    takedowns = Takedowns()
    assert takedowns.take([Entry(1, "k", b"\xff"), removed(2, "a")]) == keys("a")
    assert takedowns.position == removed(2, "a").position


def test_takedowns_of_a_release_hold_unless_the_log_says_otherwise() -> None:
    release, takedowns = Takedowns(), Takedowns()
    release.take([removed(1, "a", at=10), removed(2, "b", at=11), removed(3, "c", at=12)])
    release.take([restored(4, "c", at=13)])
    release.as_of = 100.0
    takedowns.take([restored(1, "a", at=110), removed(2, "d", at=111)])
    for _ in range(2):
        takedowns.merge_copy(release)
        assert down_of(takedowns, "a", "b", "c", "d") == ["b", "d"]
        assert (takedowns.as_of, takedowns.position) == (100.0, removed(2, "d", at=111).position)
        assert takedowns.keys.tolist() == sorted(keys("b", "d"))
    takedowns.take([restored(3, "b", at=112)])
    assert down_of(takedowns, "a", "b", "c", "d") == ["d"]


def test_of_two_copies_the_later_state_of_each_video_counts() -> None:
    machine, release = Takedowns(), Takedowns()
    machine.take([restored(1, "a", at=10), removed(2, "b", at=11), removed(3, "c", at=12)])
    machine.take([restored(4, "d", at=13)])
    machine.as_of = 100.0
    release.take([removed(4, "a", at=101), restored(5, "b", at=102), removed(6, "d", at=5)])
    release.as_of = 200.0
    for order in ((machine, release, machine), (release, machine)):
        copied = Takedowns()
        for each in order:
            copied.merge_copy(each)
        assert (down_of(copied, "a", "b", "c", "d"), copied.as_of) == (["a", "c"], 200.0)


@pytest.mark.parametrize("local", [False, True])
def test_a_removal_that_a_release_has_outlasts_a_log_restored_from_a_backup(local: bool) -> None:
    """On a fresh machine, and on one whose own copy is older than the backup."""
    before = [removed(1, "k", at=10)]
    backup = [removed(1, "k", at=10), restored(2, "k", at=20)]
    release, machine = Takedowns(), Takedowns()
    release.take([*backup, removed(3, "k", at=30)])
    release.as_of = 35.0
    if local:
        machine.take(before)
        machine.as_of = 15.0
    machine.take([restored(2, "k", at=20)])  # as the compacted log has it
    machine.merge_copy(release)
    assert down_of(machine, "k") == ["k"]
    machine.take([restored(2, "k", at=20)])
    assert down_of(machine, "k") == ["k"]
    machine.take([restored(3, "k", at=40)])
    machine.merge_copy(release)
    assert down_of(machine, "k") == []


def test_a_removal_in_the_catalogue_counts_unless_the_video_was_restored_since() -> None:
    takedowns = Takedowns()
    takedowns.take([restored(1, "a", at=10), restored(2, "b", at=12)])
    for name in ("a", "b", "c"):
        takedowns.take_removal(CatalogChange.FromString(removed(3, name, at=11).data))
    assert down_of(takedowns, "a", "b", "c") == ["a", "c"]
    takedowns.take([restored(4, "c", at=12)])
    assert down_of(takedowns, "a", "b", "c") == ["a"]


def test_a_log_restored_from_a_backup_undoes_no_removal_that_came_after_it() -> None:
    takedowns = Takedowns()
    takedowns.take([restored(1, "a", at=10), restored(2, "b", at=11)])
    takedowns.take([removed(3, "a", at=90)])
    takedowns.as_of = 100.0
    takedowns.take([restored(1, "a", at=10), restored(2, "b", at=11), removed(3, "c", at=12)])
    assert down_of(takedowns, "a", "b", "c") == ["a", "c"]
    takedowns.take([restored(4, "a", at=101)])
    assert down_of(takedowns, "a", "b", "c") == ["c"]


def test_a_state_that_is_older_than_that_of_a_copy_changes_nothing_in_either_order() -> None:
    """A log was restored from a backup that lacks a restoration, which a release has."""
    release = Takedowns()
    release.take([restored(5, "k", at=40)])
    release.as_of = 50.0
    for log_first in (True, False):
        machine = Takedowns()
        for step in (1, 2):
            if log_first == (step == 1):
                machine.take([removed(3, "k", at=10)])
            else:
                machine.merge_copy(release)
        assert down_of(machine, "k") == []
        machine.take([removed(4, "k", at=40)])
        assert down_of(machine, "k") == ["k"]


def test_a_copy_has_the_same_states(tmp_path: Path) -> None:
    takedowns, path = Takedowns(), tmp_path / "new folder" / "copy.npz"
    takedowns.take([removed(1, "a"), removed(2, "b", at=2), restored(3, "b", at=3)])
    takedowns.as_of = 123.5
    takedowns.write(path)
    takedowns.take([removed(4, "c")])
    takedowns.write(path)
    copy = Takedowns.read(path)
    assert (copy.as_of, copy.position) == (123.5, removed(4, "c").position)
    assert down_of(copy, "a", "b", "c") == ["a", "c"]
    earlier = Takedowns()
    earlier.take([removed(2, "b", at=2)])
    earlier.merge_copy(copy)
    assert down_of(earlier, "b") == [], "that it was restored is kept, too"
    assert [each.name for each in path.parent.iterdir()] == ["copy.npz"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 cut off",
        {"keys": np.array([2, 1]), "times": np.ones(2, np.int64)},
        {"keys": np.array([1, 1]), "times": np.ones(2, np.int64)},
        {"keys": np.array([1, 2]), "times": np.ones(1, np.int64)},
        {"keys": np.array([1.0]), "times": np.ones(1, np.int64)},
        {"keys": np.array([1]), "times": np.ones(1, np.bool_)},
        {"keys": np.array([1])},
    ],
)
def test_a_damaged_copy_is_refused(
    tmp_path: Path, content: bytes | dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
) -> None:
    path = tmp_path / "copy.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.savez(file, as_of=1.0, position="1", **content)  # type: ignore[arg-type]
    with pytest.raises(VireoError, match=r"copy\.npz: takedowns can't be read"):
        Takedowns.read(path)


def test_well_over_a_million_are_kept_in_a_few_bytes_each(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    many = np.unique(generator.integers(-(1 << 63), (1 << 63) - 1, 1_500_000))
    path = tmp_path / "copy.npz"
    with path.open("wb") as file:
        np.savez(file, keys=many, times=np.ones(len(many), np.int64), as_of=1.0, position="9")
    takedowns = Takedowns.read(path)
    assert path.stat().st_size < 17 * len(many)
    takedowns.take([removed(10, "a"), restored(11, "b")])
    assert takedowns.among([*many[::100_000].tolist(), *keys("a", "b")]) == {
        *many[::100_000].tolist(),
        *keys("a"),
    }
    assert len(takedowns.keys) == len(many) + 1
