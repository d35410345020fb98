"""Python's versions are the same everywhere: pyproject.toml, Makefile, README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

CHECKOUT = Path(__file__).parents[2]


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
