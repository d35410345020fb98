"""Prints what the project needs with some extras, so that a layer can have it without the project.

`python3 requirements.py gateway redis`; `=NAME` stands for the one package, as an extra has it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path


def requirements(project: dict[str, object], names: Sequence[str]) -> list[str]:
    """Return the requirements of the project with these extras, and of those that they include.

    Args:
        project: the table `project` of pyproject.toml.
        names: extras; `=NAME` for a single package of whichever extra, without the project's own.

    Raises:
        SystemExit: there is no such extra or package.
    """
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    every = [requirement for extra in extras.values() for requirement in extra]
    own: list[str] = project["dependencies"]  # type: ignore[assignment]
    found = dict.fromkeys([] if all(name.startswith("=") for name in names) else own)
    pending, seen = list(names), set()
    while pending:
        name = pending.pop(0)
        if name in seen:
            continue
        seen.add(name)
        for requirement in _of(name, extras, every):
            if included := re.fullmatch(r"vireo\[(.+)\]", requirement):
                pending.extend(included[1].split(","))
            else:
                found[requirement] = None
    return list(found)


def _of(name: str, extras: dict[str, list[str]], every: Iterable[str]) -> list[str]:
    if not name.startswith("="):
        if name not in extras:
            raise SystemExit(f"pyproject.toml has no extra {name}: {', '.join(extras)}")
        return extras[name]
    wanted = [each for each in every if re.match(r"[\w.-]+", each)[0] == name[1:]]  # type: ignore[index]
    if not wanted:
        raise SystemExit(f"no extra of pyproject.toml has the package {name[1:]}")
    return wanted[:1]


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    sys.stdout.write("".join(f"{each}\n" for each in requirements(project, sys.argv[1:])))
