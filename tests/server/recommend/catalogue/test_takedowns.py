from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.catalogue import removed, restored
from vireo.server.errors import VireoError
from vireo.server.event_log.log import Entry
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.overlay import Takedowns


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


class Told(NamedTuple):
    """A state of a video, and where it is read."""

    name: str
    at: int
    is_removed: bool
    is_copied: bool
    """Whether it is in a copy, of a release or a machine, rather than in the log."""


TOLD = st.builds(Told, st.sampled_from("abc"), st.integers(1, 30), st.booleans(), st.booleans())


@settings(deadline=None)
@given(st.lists(TOLD, unique_by=lambda each: (each.name, each.at)), st.randoms())
def test_the_latest_state_counts_whichever_logs_backups_and_copies_tell_it_in_any_order(
    states: list[Told], draw: random.Random
) -> None:
    takedowns, last = Takedowns(), dict[str, Told]()
    for each in draw.choices(states, k=2 * len(states)) if states else []:  # old ones come again
        entry = (removed if each.is_removed else restored)(1, each.name, at=each.at)
        if not each.is_copied:
            takedowns.take([entry])
        else:
            copy = Takedowns()
            copy.take([entry])
            copy.as_of = each.at
            as_of = takedowns.as_of
            takedowns.merge_copy(copy)
            assert takedowns.as_of == max(as_of, each.at)
        if each.name not in last or last[each.name].at < each.at:
            last[each.name] = each
        down = sorted(name for name, state in last.items() if state.is_removed)
        assert down_of(takedowns, *"abc") == down
        assert takedowns.keys.tolist() == sorted(keys(*down))


def test_of_two_states_of_one_moment_that_of_the_log_counts() -> None:
    copy, takedowns = Takedowns(), Takedowns()
    copy.take([restored(5, "a", at=40), removed(6, "b", at=40)])
    takedowns.take([removed(4, "a", at=40)])
    takedowns.merge_copy(copy)
    assert takedowns.position == removed(4, "a", at=40).position
    takedowns.take([restored(5, "b", at=40)])
    assert down_of(takedowns, "a", "b") == ["a"]


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
