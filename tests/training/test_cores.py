import os
from pathlib import Path

import pytest

from vireo.training.modules import cores


@pytest.fixture(autouse=True)
def ten_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on ten cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)), raising=False)


def host(root: Path, group: str, limits: dict[str, str]) -> Path:
    """A machine below `root` whose process is in `group`, with limits by the path of a group."""
    cgroup_file = root / "proc" / "self" / "cgroup"
    cgroup_file.parent.mkdir(parents=True)
    cgroup_file.write_text(f"1:cpu:/elsewhere\n0::{group}\n")
    for path, limit in limits.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(limit + "\n")
    return root


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {"": "250000 100000"}, 2),
        ("/", {"": "50000 100000"}, 1),
        ("/", {"": "6400000 100000"}, 10),
        # A container whose path is that outside sees its own group alone.
        ("/kubepods/pod7/c1", {"": "300000 100000"}, 3),
        (
            "/pods/pod7/c1",
            {
                "pods": "max 100000",
                "pods/pod7": "150000 50000",
                "pods/pod7/c1": "800000 100000",
            },
            3,
        ),
        # A path that leaves the mount is not followed.
        ("/../../../other", {"": "200000 100000", "../../../other": "100000 100000"}, 2),
        ("/", {"": "max 100000"}, 10),
        ("/", {"": ""}, 10),
        ("/", {"": "nonsense"}, 10),
        ("/", {}, 10),
    ],
)
def test_cores_are_the_whole_ones_of_the_tightest_quota_within_those_that_are_allowed(
    group: str, limits: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert cores(host(tmp_path, group, limits)) == expected


def test_where_there_are_neither_cgroups_nor_an_affinity_all_cores_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores(tmp_path) == 3
