"""Commits are linted by what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parents[2]


def test_the_hooks_of_commits_run_what_make_lint_runs() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    [(needed, recipe)] = re.findall(r"^lint: setup ([^#]*?) ##.*\n((?:\t.*\n)+)", makefile, re.M)
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())
    entries = "\n".join(hook["entry"] for repo in config["repos"] for hook in repo["hooks"])
    program = r"/(ruff \w+|\w+)"
    assert re.findall(r"\.venv/bin" + program, entries) == re.findall(r"\)" + program, recipe)
    assert re.findall(r"make (\S+)", entries) == needed.split()
