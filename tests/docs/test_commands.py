"""Every `vireo` command that a page, a runbook, a message or an example names exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from vireo.ops.cli.__main__ import grouped_commands

CHECKOUT = Path(__file__).parents[2]
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").rglob("*.md")),
    *sorted((CHECKOUT / "clients").glob("*.md")),
    *sorted((CHECKOUT / "clients").glob("*/README.md")),
    CHECKOUT / "bench" / "README.md",
    CHECKOUT / "examples" / "README.md",
    *sorted((CHECKOUT / "deploy" / "observability" / "conditions").glob("*.yaml")),
]
MESSAGES = [
    file
    for folder in ("ops", "server", "training")
    for file in sorted((CHECKOUT / folder).rglob("*.py"))
]
_CALLED = re.compile(r"(?<![\w./-])vireo ((?:[a-z][a-z-]+)(?: [^\n`|;&)(\"'<>#]*)?)")
_NO_PROGRAM = re.compile(r"((helm|systemctl)( [^\s;|&]+)+|-n) $")
"""What precedes the name of a release, a unit or a namespace."""
_CONTINUED = re.compile(r"\\\n\s*")
_ANYWHERE = {"--help", "--version"}


@cache
def commands() -> dict[str, set[str]]:
    """The options of each command, by how it is called without `vireo`."""
    return {
        name.removeprefix("vireo "): {
            option
            for each in command.params
            for option in (*each.opts, *each.secondary_opts)
            if option.startswith("--")
        }
        for group in grouped_commands().values()
        for name, command in group.items()
    }


def groups() -> set[str]:
    return {name.rpartition(" ")[0] for name in commands()} - {""}


def called(text: str) -> Iterator[str]:
    """The commands that a text names, each with what follows it."""
    text = _CONTINUED.sub(" ", text)
    for found in _CALLED.finditer(text):
        if not _NO_PROGRAM.search(text[max(0, found.start() - 80) : found.start()]):
            yield found[1].split(", ")[0].rstrip(" ,.:")


def problem(command: str) -> str:
    """What is wrong with a command; empty if nothing is."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    names = [" ".join(words[:count]) for count in (2, 1)]
    name = next((each for each in names if each in commands()), None)
    if words[0] == "bench":
        return ""
    if name is None:
        return "" if words[0] in groups() and len(words) == 1 else f"there is no vireo {command}"
    given = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--"}
    unknown = given - commands()[name] - _ANYWHERE
    return f"vireo {name} has no {', '.join(sorted(unknown))}" if unknown else ""


def code_of(page: Path) -> str:
    """The code of a page: fenced, indented as runbooks of the table have it, or in a line."""
    text = page.read_text()
    if page.suffix == ".yaml":
        return text
    fenced = re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.M))
    fenced = [re.sub(r"(^|\s)#.*$", "", each, flags=re.MULTILINE) for each in fenced]
    return "\n".join([*fenced, *(" ".join(each.split()) for each in inline)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    assert [found for each in called(code_of(page)) if (found := problem(each))] == []


def test_the_commands_that_messages_name_exist() -> None:
    wrong = {
        str(file.relative_to(CHECKOUT)): problems
        for file in MESSAGES
        for text in [re.sub(r'"\s*\n\s*f?"', "", file.read_text())]
        if (problems := [found for each in called(text) if (found := problem(each))])
    }
    assert wrong == {}
