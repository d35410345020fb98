import os
from pathlib import Path

import pytest

from vireo.server.cores import allowed_cores, cores, cpu_quota

CHECKOUT = Path(__file__).parents[2]
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


def test_a_container_that_sees_its_own_group_alone_has_the_quota_of_the_root(
    tmp_path: Path,
) -> None:
    assert cpu_quota(host(tmp_path, "/", _="250000 100000")) == 2.5


def test_a_container_whose_path_is_that_outside_has_the_quota_of_the_root(tmp_path: Path) -> None:
    assert cpu_quota(host(tmp_path, "/kubepods/pod7/c1", _="300000 100000")) == 3


def test_a_group_within_a_tighter_one_has_no_more_than_that(tmp_path: Path) -> None:
    machine = host(
        tmp_path,
        "/pods/pod7/c1",
        pods="max 100000",
        pods_pod7="150000 50000",
        pods_pod7_c1="800000 100000",
    )
    assert cpu_quota(machine) == 3


def test_a_path_that_leaves_the_mount_is_not_followed(tmp_path: Path) -> None:
    machine = host(tmp_path / "machine", "/../../../other", _="200000 100000")
    other = tmp_path / "machine" / "other"
    other.mkdir()
    (other / "cpu.max").write_text("100000 100000")
    assert cpu_quota(machine) == 2


@pytest.mark.parametrize("limit", ["max 100000", "", "nonsense"])
def test_no_limit_is_no_quota(limit: str, tmp_path: Path) -> None:
    assert cpu_quota(host(tmp_path, "/", _=limit)) is None


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


def test_what_only_linux_has_is_called_in_one_guarded_place() -> None:
    called = {
        str(file.relative_to(CHECKOUT))
        for folder in ("server", "training", "bench", "clients")
        for file in (CHECKOUT / folder).rglob("*.py")
        if "node_modules" not in file.parts and "sched_getaffinity" in file.read_text()
    }
    assert called == {"server/cores.py"}
