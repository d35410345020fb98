"""What builds the images, without building one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import wheel_layout
from deploy.images import build
from deploy.images.requirements import requirements

PROJECT: dict[str, object] = {
    "dependencies": ["numpy>=2"],
    "optional-dependencies": {
        "pod": ["faiss-cpu>=1"],
        "serving": ["vireo[pod,gateway]"],
        "gateway": ["feast>=0.6", "faiss-cpu>=1"],
    },
}


def test_requirements_follow_extras_of_extras_once() -> None:
    assert requirements(PROJECT, ["serving"]) == ["numpy>=2", "faiss-cpu>=1", "feast>=0.6"]


def test_a_single_package_comes_with_its_range_and_without_the_project() -> None:
    assert requirements(PROJECT, ["=feast"]) == ["feast>=0.6"]


@pytest.mark.parametrize("name", ["podd", "=fesat"])
def test_an_unknown_extra_or_package_is_named(name: str) -> None:
    with pytest.raises(SystemExit, match=name.removeprefix("=")):
        requirements(PROJECT, [name])


def installs() -> dict[str, list[str]]:
    """The extras of each `install.sh` of the Containerfile, by its role."""
    text = (build.ROOT / "deploy/images/Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if "./install.sh " in line]
    words = [line.split("./install.sh ")[1].split() for line in lines]
    return {role: extras for role, *extras in words}


def test_every_extra_of_the_containerfile_exists() -> None:
    project = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]
    assert len(installs()) == 7
    for names in installs().values():
        assert requirements(project, names)


def test_servers_can_say_when_their_certificates_end_and_those_of_slates_export_spans() -> None:
    for role in ("pod", "gateway", "control"):
        assert "security" in installs()[role]
    for role in ("pod", "gateway"):
        assert "tracing" in installs()[role]


def test_the_containerfile_has_a_target_for_each_role() -> None:
    lines = (build.ROOT / "deploy/images/Containerfile").read_text().splitlines()
    stages = {line.split(" AS ")[1] for line in lines if line.startswith("FROM ")}
    assert set(build.ROLES) <= stages


def test_docker_is_given_the_same_files_as_buildah() -> None:
    of_docker = build.ROOT / "deploy/images/Containerfile.dockerignore"
    assert of_docker.read_text() == (build.ROOT / ".containerignore").read_text()


def test_images_are_given_every_folder_of_a_wheel() -> None:
    lines = (build.ROOT / ".containerignore").read_text().splitlines()
    assert {f"!{folder}" for folder in wheel_layout._CHECKED_IN} <= set(lines)


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
