"""What builds the images, without building one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import lock
from deploy.images import build

OTHER_BASE = "registry.test/base@sha256:" + "0" * 64


def locked(role: str) -> dict[str, str]:
    """The version of each package that a role's image gets."""
    lines = (lock.WHEELS / f"{role}.txt").read_text().splitlines()
    return dict(line.split()[0].split("==") for line in lines)


def needed(lines: list[str]) -> Iterator[Requirement]:
    """What these requirements ask for, and the project where they name it with extras."""
    project = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]
    pending = list(lines)
    for line in pending:
        if included := re.fullmatch(r"(?:vireo|\.)\[(.+)\]", line):
            pending.extend(project["dependencies"])
            for extra in included[1].split(","):
                pending.extend(project["optional-dependencies"][extra])
        else:
            yield Requirement(line)


@pytest.mark.parametrize("role", lock.ROLES)
def test_every_wheel_is_pinned_by_hash_at_the_version_that_is_tested(role: str) -> None:
    lines = (lock.WHEELS / f"{role}.txt").read_text().splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.+]+( --hash=sha256:[0-9a-f]{64})+", line), line
    pins = dict(
        line.split()[0].split("==")
        for line in lock.CONSTRAINTS.read_text().splitlines()
        if "==" in line
    )
    tested: dict[str, str] = {canonicalize_name(name): version for name, version in pins.items()}
    stale = {
        name: version
        for name, version in locked(role).items()
        if tested.get(name, version) != version
    }
    assert not stale, "make lock"


@pytest.mark.parametrize("role", lock.ROLES)
def test_what_an_image_needs_is_locked(role: str) -> None:
    versions = locked(role)
    for requirement in needed(lock.ROLES[role]):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name}: make lock"
        assert requirement.specifier.contains(version), requirement


def test_every_lock_is_installed_by_the_containerfile() -> None:
    text = (build.ROOT / "deploy/images/Containerfile").read_text()
    assert set(re.findall(r"deploy/images/wheels/(\w+)\.txt", text)) == lock.ROLES.keys()
    assert {path.stem for path in lock.WHEELS.iterdir()} == lock.ROLES.keys()


def test_servers_can_say_when_their_certificates_end_and_those_of_slates_export_spans() -> None:
    for role in ("pod", "gateway", "slate", "control"):
        assert "cryptography" in locked(role)
    for role in ("pod", "gateway", "slate"):
        assert "opentelemetry-exporter-otlp-proto-grpc" in locked(role)


def test_a_base_that_can_change_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build.main(["--base", "python:3.13-slim-trixie"])
    assert "name it by its digest: IMAGE@sha256:" in capsys.readouterr().err


def test_a_base_of_other_packages_than_the_pinned_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Debian's archive can't be made to change.
    pinned = build.DEBIAN.read_text()
    version = re.search(r"^openssl=.+$", pinned, re.MULTILINE)
    assert version
    monkeypatch.setattr(build, "exists", lambda _: False)
    monkeypatch.setattr(build, "debian_rootfs", lambda *_: pinned.replace(version[0], "openssl=99"))
    with pytest.raises(SystemExit, match="make images-lock") as raised:
        build.make_base()
    assert str(raised.value).endswith(f"-{version[0]}\n+openssl=99")


def test_the_tag_is_the_version_and_a_digest_and_differs_between_bases(
    capsys: pytest.CaptureFixture[str],
) -> None:
    build.main(["--print", "tag"])
    build.main(["--print", "tag", "--base", OTHER_BASE])
    default, other = capsys.readouterr().out.split()
    assert re.fullmatch(rf"{re.escape(build.version())}-[0-9a-f]{{12}}", default)
    assert default != other
    assert build.image("gateway") == f"localhost/vireo-gateway:{default}"


def test_the_containerfile_has_a_target_for_each_role() -> None:
    lines = (build.ROOT / "deploy/images/Containerfile").read_text().splitlines()
    stages = {line.split(" AS ")[1] for line in lines if line.startswith("FROM ")}
    assert set(build.ROLES) <= stages


def test_docker_is_given_the_same_files_as_buildah() -> None:
    of_docker = build.ROOT / "deploy/images/Containerfile.dockerignore"
    assert of_docker.read_text() == (build.ROOT / ".containerignore").read_text()


def test_images_are_given_every_folder_of_a_wheel() -> None:
    lines = (build.ROOT / ".containerignore").read_text().splitlines()
    links = [each.readlink() for each in (build.ROOT / "vireo").rglob("*") if each.is_symlink()]
    folders = {str(link).lstrip("./") for link in links}
    missing = {
        each for each in folders if not each.startswith("protos/gen") and f"!{each}" not in lines
    }
    assert not missing


def test_an_image_is_built_again_if_a_file_of_it_changes_and_only_then(tmp_path: Path) -> None:
    (tmp_path / ".containerignore").write_text("*\n!server\n!pyproject.toml\nserver/report\n")
    (tmp_path / "pyproject.toml").write_text("")
    for name in ("server/a.py", "server/report/r.py", "server/__pycache__/a.pyc", "tests/t.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = build.context_digest(tmp_path, "base")
    for name in ("server/report/r.py", "server/__pycache__/a.pyc", "tests/t.py"):
        (tmp_path / name).write_text("2")
    assert build.context_digest(tmp_path, "base") == before
    assert build.context_digest(tmp_path, "another base") != before
    (tmp_path / "server/a.py").write_text("2")
    assert build.context_digest(tmp_path, "base") != before


def test_settings_of_pip_reach_builds_as_a_secret_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", "https://name:word@index.test/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} /not/there")
    monkeypatch.setenv("PIP_COMPILE", "0")
    flags = build.build_flags(tmp_path)
    assert "index.test" not in " ".join(flags)
    assert f"--volume={wheels}:{wheels}:ro" in flags
    assert not any("/not/there" in flag for flag in flags)
    written = (tmp_path / "pip.conf").read_text()
    assert "index-url = https://name:word@index.test/simple" in written
    assert "compile" not in written
    assert (tmp_path / "pip.conf").stat().st_mode & 0o077 == 0


def test_an_unknown_role_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        build.main(["gatway"])
    assert "no role is called gatway; choose from candidate, ranking" in capsys.readouterr().err
