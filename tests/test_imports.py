"""What our modules import: one name for each, the same in a checkout and in a wheel; no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROOMS = ("server", "training", "ops")
OUTSIDE = ("bench", "tests", "docs", "protos")
MAX_LINES = 450


def modules(*folders: str) -> dict[str, Path]:
    """Modules below `folders`, by the names by which they are imported."""
    found = {}
    for folder in folders:
        for path in (CHECKOUT / folder).rglob("*.py"):
            name = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
            found["vireo." * (folder in ROOMS) + name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Names of what a module imports anywhere in it: modules, and what is taken from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(name), names=names, level=0):
                yield name
                yield from (f"{name}.{each.name}" for each in names)
            case ast.Import(names=names):
                yield from (each.name for each in names)


def test_every_module_is_imported_by_the_name_that_it_has_in_a_wheel() -> None:
    for path in modules(*ROOMS, *OUTSIDE, "deploy").values():
        for name in imports(path):
            assert name.partition(".")[0] not in (*ROOMS, "inference", "buf"), (path, name)


def test_nothing_of_a_wheel_imports_what_only_a_checkout_has() -> None:
    for path in modules(*ROOMS).values():
        for name in imports(path):
            assert name.partition(".")[0] not in OUTSIDE, (path, name)


def test_neither_modules_nor_folders_import_each_other_in_a_circle() -> None:
    ours = modules(*ROOMS, "bench")
    of_modules = {name: {*imports(path)} & {*ours} - {name} for name, path in ours.items()}
    TopologicalSorter(of_modules).prepare()
    of_rooms: dict[str, set[str]] = {}
    for name, imported in of_modules.items():
        others = {_room(each) for each in imported} - {_room(name)}
        of_rooms.setdefault(_room(name), set()).update(others)
    TopologicalSorter(of_rooms).prepare()


def _room(module: str) -> str:
    """`vireo.server.rpc` of `vireo.server.rpc.guard`; bench is one room."""
    parts = module.split(".")
    return ".".join(parts[:3]) if parts[0] == "vireo" else parts[0]


def test_no_module_is_longer_than_a_reader_wants() -> None:
    long = {
        str(path): lines
        for path in modules(*ROOMS, *OUTSIDE, "deploy", "clients").values()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not {
        path
        for path in long
        if "/tests/" not in path and not {"_generated", "gen"} & {*Path(path).parts}
    }
