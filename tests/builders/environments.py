"""Wheels, and environments that have nothing but a wheel and what it asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_UV = str(CONSTRAINTS.parent / "deploy" / "uv")


def build_sdist(project: Path, folder: Path) -> Path:
    """Return the sdist of a project, built in a new folder by what `make dev` has installed."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], project)
    [sdist] = folder.iterdir()
    return sdist


def build_wheel(project: Path, folder: Path, *, isolated: bool = False) -> Path:
    """Return the wheel of a project or sdist, built in a new folder.

    It is built by what `make dev` has installed; if isolated, by nothing but what it asks for.
    """
    how = [f"--python={sys.executable}", *([] if isolated else ["--no-build-isolation"])]
    command = [_UV, "build", "--wheel", "--require-hashes", f"--build-constraint={CONSTRAINTS}"]
    _run([*command, *how, f"--out-dir={folder}", str(project)])
    [wheel] = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path, requirement: str, constraints: Path = CONSTRAINTS) -> Path:
    """Return Python of a new environment that has a requirement, and no pip."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    install(python, requirement, constraints=constraints)
    return python


def replace_wheel(python: Path, wheel: Path, extra: str) -> None:
    """Replace an environment's wheel with another, and install what that asks for."""
    install(python, "--reinstall-package=vireo", f"vireo[{extra}] @ {wheel.as_uri()}")


def install(python: Path, *what: str, constraints: Path = CONSTRAINTS) -> None:
    """Install requirements into an environment without pip, at the versions of constraints."""
    command = [
        *(_UV, "pip", "install", f"--constraint={constraints}"),
        *(f"--build-constraint={CONSTRAINTS}", f"--python={python}", *what),
    ]
    _run(command)


def pip_of(python: Path, command: str) -> list[str]:
    """Return a command of pip for an environment without it."""
    return [_UV, "pip", command, f"--python={python}"]


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
