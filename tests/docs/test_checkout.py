"""What the checkout says in two places is the same: pages, code, make and the hooks of commits."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from docs.checkout_pages import on_page_markdown
from docs.generate import COMMANDS, PAGE, command_pages, condition_files, settings_page

CHECKOUT = Path(__file__).parents[2]
GUIDES = [
    CHECKOUT / "CONTRIBUTING.md",
    CHECKOUT / "docs" / "architecture.md",
    *(CHECKOUT / "docs" / "decisions").glob("*.md"),
]
FOLDERS = "bench|clients|deploy|docs|envoy|protos|server|tests|training"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")


def test_the_pages_of_commands_are_those_that_their_help_makes() -> None:
    pages = {path: path.read_text() for path in (COMMANDS, *COMMANDS.with_suffix("").glob("*.md"))}
    assert pages == command_pages(), "make them again: python -m docs.generate"


def test_each_variable_is_on_the_settings_page_once_with_the_processes_that_read_it() -> None:
    rows = re.findall(r"^\| `(VIREO_\w+)` \| .+? \| (.*?) \|", settings_page(), re.MULTILINE)
    assert len(rows) == len(dict(rows)) > 100
    read_by = dict(rows)
    assert read_by["VIREO_PORT"] == "servers"
    assert read_by["VIREO_CACHE"] == "pods, `vireo`"
    assert read_by["VIREO_JWKS"] == "control, `vireo up`"
    assert read_by["VIREO_REDIS_URL"] == "gateway, slate, consumer, `vireo`"


def test_the_settings_page_is_the_one_that_the_code_makes_and_describes_each() -> None:
    assert PAGE.read_text() == settings_page(), "make it again: python -m docs.generate"
    unexplained = re.findall(r"^\| `(\w+)` \|.*\|\s*\|$", settings_page(), re.MULTILINE)
    assert unexplained == []


def test_rules_and_runbooks_are_those_that_the_table_of_conditions_makes() -> None:
    for path, text in condition_files().items():
        assert path.read_text() == text, f"{path}: make it again: python -m docs.generate"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_paths_in_guides_exist(guide: Path) -> None:
    for path in PATH.findall(guide.read_text()):
        assert (CHECKOUT / path).exists(), path


def test_links_to_code_lead_to_the_repository_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="rest.md"))
    files = SimpleNamespace(src_uris={"live.md"})

    def linked(link: str) -> str:
        return on_page_markdown(link, page=page, files=files)  # type: ignore[arg-type]

    assert linked("[protos](../protos)") == "protos"
    monkeypatch.setenv("VIREO_DOCS_REPOSITORY", "https://git.example/vireo/blob/main/")
    assert linked("[protos](../protos)") == "[protos](https://git.example/vireo/blob/main/protos)"
    assert linked("[live](live.md#when-it-fails)") == "[live](live.md#when-it-fails)"


def test_the_hooks_of_commits_run_what_make_lint_runs() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    [(needed, recipe)] = re.findall(r"^lint: dev ([^#]*?) ##.*\n((?:\t.*\n)+)", makefile, re.M)
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())
    entries = "\n".join(hook["entry"] for repo in config["repos"] for hook in repo["hooks"])
    program = r"/(ruff \w+|\w+)"
    assert re.findall(r"\.venv/bin" + program, entries) == re.findall(r"\)" + program, recipe)
    assert re.findall(r"make (\S+)", entries) == needed.split()


def test_the_readme_and_make_name_the_versions_of_python_that_the_package_takes() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    taken = SpecifierSet(project["requires-python"])
    versions = [f"3.{minor}" for minor in range(20) if f"3.{minor}.9" in taken]
    assert versions[0] == "3.11"
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert classified == versions
    [said] = re.findall(r"You need Python ([^m]*), make", (CHECKOUT / "README.md").read_text())
    assert re.findall(r"3\.\d+", said) == versions
    makefile = (CHECKOUT / "Makefile").read_text()
    [names] = re.findall(r"isn't Python ([^;]*);", makefile)
    assert re.findall(r"3\.\d+", names) == versions
    assert re.findall(r"python(3\.\d+)", makefile.split("done;")[0]) == versions
    low, high = versions[0].partition(".")[2], int(versions[-1].partition(".")[2]) + 1
    assert f"not (3, {low}) <= sys.version_info < (3, {high})" in makefile
