"""Lays the project out as its wheel has it: every package of ours below `vireo`.

A checkout has `server`, `training`, `clients` and `bench` at the top, where packages of others may
have the same names. A wheel has `vireo.server` and so on, and nothing else at the top;
`docs/decisions/one-package-in-the-wheel.md` has the reasons.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

PACKAGE = "vireo"
_CHECKED_IN = (
    "server",
    "training",
    "ops/backup",
    "ops/cli",
    "ops/doctor",
    "ops/upgrades",
    "bench",
    "envoy",
    "deploy/observability",
)
_GENERATED = ("inference", "buf")
# Not `envoy`: it has no modules, and the imports of that name mean Envoy's protos.
_MOVED = frozenset(("server", "training", "clients", "bench", *_GENERATED))
_IGNORED = shutil.ignore_patterns("__pycache__", "report")


def lay_out(checkout: Path, generated: Path, package: Path) -> None:
    """Write the package that a wheel has.

    Args:
        checkout: folder of the project.
        generated: folder of what is generated from its protos.
        package: folder to write; it must not exist yet.

    Raises:
        ValueError: a module has an import that `relocated` refuses.
    """
    shutil.copytree(generated / PACKAGE, package, ignore=_IGNORED)
    folders = {name: checkout / name for name in _CHECKED_IN}
    folders |= {name: generated / name for name in _GENERATED}
    for name, folder in folders.items():
        shutil.copytree(folder, package / name, ignore=_IGNORED)
    for module in (*package.rglob("*.py"), *package.rglob("*.pyi")):
        module.write_text(relocated(module.read_text()))


def relocated(source: str) -> str:
    """Return a module that imports our packages from below `vireo`, its lines as they were.

    Raises:
        ValueError: an import of ours would bind another name than before (`import server.home`),
            or isn't written as the formatter writes it.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if _is_moved(module):
                before, after = f"from {module} ", f"from {PACKAGE}.{module} "
            case ast.Import(names=[ast.alias(name=name, asname=asname)]) if _is_moved(name):
                if asname is None and "." in name:
                    raise ValueError(f"{ast.unparse(node)}: use `from … import …` instead")
                before, after = ast.unparse(node), f"import {PACKAGE}.{name} as {asname or name}"
            case _:
                continue
        line, start = lines[node.lineno - 1], node.col_offset
        if not line.startswith(before, start):
            raise ValueError(f"{line.strip()}: format this import")
        lines[node.lineno - 1] = line[:start] + after + line[start + len(before) :]
    return "".join(lines)


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in _MOVED
