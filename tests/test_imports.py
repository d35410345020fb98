"""What our modules import: a name each, which is the same in a checkout and in a wheel."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROOMS = ("server", "training", "ops")


def imports(module: Path) -> Iterator[str]:
    """Names of the modules that `module` imports from."""
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.ImportFrom(module=str(name), level=0):
                yield name
            case ast.Import(names=names):
                yield from (each.name for each in names)


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (CHECKOUT / folder).rglob("*.py")


def test_every_module_is_imported_by_the_name_that_it_has_in_a_wheel() -> None:
    for module in modules(*ROOMS, "bench", "tests", "docs", "deploy"):
        for name in imports(module):
            assert name.partition(".")[0] not in (*ROOMS, "inference", "buf"), (module, name)


def test_nothing_of_a_wheel_imports_what_only_a_checkout_has() -> None:
    for module in modules(*ROOMS):
        for name in imports(module):
            assert name.partition(".")[0] not in ("bench", "tests", "docs", "protos"), (
                module,
                name,
            )
