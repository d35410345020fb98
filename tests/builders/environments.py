"""Wheels, and environments that have nothing but a wheel and what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_INSTALL = ("install", "--quiet")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def build_sdist(project: Path, folder: Path) -> Path:
    """Return the sdist of a project, built in a new folder by what `make setup` has installed."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], project)
    [sdist] = folder.iterdir()
    return sdist


def build_wheel(project: Path, folder: Path, *, isolated: bool = False) -> Path:
    """Return the wheel of a project or sdist, built in a new folder.

    It is built by what `make setup` has installed; if isolated, by nothing but what it asks for.
    """
    installed = [] if isolated else ["--no-build-isolation"]
    built = [*_PIP, "wheel", "--quiet", "--no-deps", *installed, f"--wheel-dir={folder}"]
    _run([*built, str(project)])
    [wheel] = folder.iterdir()
    return wheel


def new_environment(folder: Path, requirement: str, constraints: Path | None = None) -> Path:
    """Return Python of a new environment that has a requirement, and no pip."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    _run([*pip_of(python), *_INSTALL, requirement], constraints=constraints)
    return python


def replace_wheel(python: Path, wheel: Path, extra: str) -> None:
    """Replace an environment's wheel with another, and install what that asks for."""
    _run([*pip_of(python), *_INSTALL, "--no-deps", "--force-reinstall", str(wheel)])
    _run([*pip_of(python), *_INSTALL, f"{wheel}[{extra}]"])


def pip_of(python: Path) -> list[str]:
    """Return the command that is pip for an environment without it."""
    return [*_PIP, "--python", str(python)]


def _run(command: list[str], cwd: Path | None = None, constraints: Path | None = None) -> None:
    # By the environment, so that they hold for isolated builds too.
    env = {**os.environ, "PIP_CONSTRAINT": str(constraints or CONSTRAINTS)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
