import os
from pathlib import Path

import pytest

from vireo.server.cores import allowed_cores, cores, cpu_quota

TEN = frozenset(range(10))


def host(root: Path, group: str, **limits: str) -> Path:
    """A machine below `root` on which the process is in `group`; `limits` by the path of a group.

    In a name of `limits` "_" stands for "/".
    """
    cgroup_file = root / "proc" / "self" / "cgroup"
    cgroup_file.parent.mkdir(parents=True)
    cgroup_file.write_text(f"1:cpu:/elsewhere\n0::{group}\n")
    for name, limit in limits.items():
        folder = root / "sys/fs/cgroup" / name.replace("_", "/").strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(limit + "\n")
    return root


@pytest.mark.parametrize(
    ("group", "limits", "quota"),
    [
        ("/", {"_": "250000 100000"}, 2.5),
        # A container whose path is that outside sees its own group alone.
        ("/kubepods/pod7/c1", {"_": "300000 100000"}, 3),
        (
            "/pods/pod7/c1",
            {
                "pods": "max 100000",
                "pods_pod7": "150000 50000",
                "pods_pod7_c1": "800000 100000",
            },
            3,
        ),
        ("/", {"_": "max 100000"}, None),
        ("/", {"_": ""}, None),
        ("/", {"_": "nonsense"}, None),
        ("/", {}, None),
    ],
)
def test_a_process_has_the_tightest_quota_of_the_groups_that_it_sees(
    group: str, limits: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(host(tmp_path, group, **limits)) == quota


def test_a_path_that_leaves_the_mount_is_not_followed(tmp_path: Path) -> None:
    machine = host(tmp_path / "machine", "/../../../other", _="200000 100000")
    other = tmp_path / "machine" / "other"
    other.mkdir()
    (other / "cpu.max").write_text("100000 100000")
    assert cpu_quota(machine) == 2


def test_a_machine_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("250000 100000", 2), ("50000 100000", 1), ("6400000 100000", 10), ("max 100000", 10)],
)
def test_cores_are_the_whole_ones_of_the_quota_within_those_that_are_allowed(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: TEN, raising=False)
    assert cores(host(tmp_path, "/", _=limit)) == expected


def test_where_there_is_no_affinity_all_cores_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert allowed_cores() == [0, 1, 2]
    assert cores(tmp_path) == 3
