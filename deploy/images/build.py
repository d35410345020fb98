"""Builds the images with buildah: `python3 deploy/images/build.py [ROLE ...]`.

It needs nothing but Python's standard library, buildah and, unless `--base` names an image to build
on, mmdebstrap: no registry, and no daemon. docs/images.md has the rest.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import unified_diff
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVING = ("candidate", "ranking", "gateway", "slate", "consumer", "control", "envoy", "stores")
ROLES = (*SERVING, "training")
VENDOR_LABEL = "org.opencontainers.image.vendor=Vireo contributors"
"""Label of all that builds make, also of the layers that they keep for the next."""
SBOM = "opt/vireo/share/sbom.cdx.json"

DEBIAN = ROOT / "deploy/images/debian.txt"
"""The base as `make images-lock` found it: time, digest of its files, and versions of packages."""

_SUITE = "trixie"  # its Python is 3.13
_PACKAGES = ("ca-certificates", "libstdc++6", "python3", "python3-venv", "tzdata")
_LEFT_OUT = ("doc", "info", "locale", "man", "lintian", "bash-completion")
_HOOKS = (
    "ln -sf python3 $1/usr/bin/python",
    # Nobody can gain anything by setuid programs, which would be reported all the same.
    "find $1/usr $1/var -xdev -perm /6000 -exec chmod a-s {} +",
    # What remains of apt is where this machine has its packages from.
    "rm -rf $1/etc/apt $1/var/lib/apt $1/var/cache $1/var/log/* $1/etc/resolv.conf $1/etc/hostname",
)
_RECIPE = repr((_SUITE, _PACKAGES, _LEFT_OUT, _HOOKS, DEBIAN.read_text())).encode()
BASE = f"localhost/vireo-base:{_SUITE}-{hashlib.sha256(_RECIPE).hexdigest()[:12]}"
"""The base image that is made here; a change of what it is made of gives another."""
_TESTS = ("deploy/compose.yaml", "tests/deploy/images/*.py")
"""What `make images-test` reads beside what images are made of."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build each image that isn't built of these files yet; write its SBOM; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("roles", nargs="*", default=ROLES, metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument("--base", help="image to build on, by its digest; without it, Debian's")
    parser.add_argument("--sboms", type=Path, default=ROOT / "build/images", help="their folder")
    parser.add_argument("--keep", action="store_true", help="keep layers and images of before")
    parser.add_argument(
        "--print",
        choices=("tag", "inputs"),
        help="build nothing: print the images' tag, or the digest of what `make images-test` tests",
    )
    parser.add_argument(
        "--lock-base", action="store_true", help="build nothing: pin Debian's packages anew"
    )
    chosen = parser.parse_args(arguments)
    if chosen.lock_base:
        with tempfile.TemporaryDirectory() as scratch:
            DEBIAN.write_text(debian_rootfs(Path(scratch) / "rootfs.tar", int(time.time())))
        return
    if unknown := set(chosen.roles) - set(ROLES):
        parser.error(
            f"no role is called {', '.join(sorted(unknown))}; choose from {', '.join(ROLES)}"
        )
    if chosen.base and "@sha256:" not in chosen.base:
        parser.error(f"{chosen.base} can change; name it by its digest: IMAGE@sha256:…")
    base = chosen.base or BASE
    if chosen.print:
        tested = sorted(path for pattern in _TESTS for path in ROOT.glob(pattern))
        print(tag(base) if chosen.print == "tag" else context_digest(ROOT, base, tested))  # noqa: T201
        return
    tools = ("buildah",) if chosen.base else ("buildah", "mmdebstrap")
    if missing := " ".join(name for name in tools if not shutil.which(name)):
        parser.error(f"these programs are missing; install them: apt-get install {missing}")

    if wanted := [role for role in chosen.roles if not exists(image(role, base))]:
        if base == BASE:
            make_base()
        with tempfile.TemporaryDirectory() as scratch:
            flags, labels = build_flags(Path(scratch)), image_labels(base)
            for role in wanted:
                build(role, base, flags, labels)
        if not chosen.keep:
            remove_earlier([image(role, base) for role in wanted])
    chosen.sboms.mkdir(parents=True, exist_ok=True)
    for role in chosen.roles:
        name = image(role, base)
        packages = written_sbom(role, name, chosen.sboms / f"{role}.cdx.json")
        size = buildah("images", "--format", "{{.Size}}", name)
        print(f"{name:48}{size:>8}{packages:6} packages")  # noqa: T201


def image(role: str, base: str = BASE) -> str:
    """Return the name and tag of a role's image."""
    return f"localhost/vireo-{role}:{tag(base)}"


@cache
def tag(base: str = BASE) -> str:
    """Return the tag of images: the version, and which files they are made of, on which base."""
    return f"{version()}-{context_digest(ROOT, base)[:12]}"


def version() -> str:
    """Return the version of the project."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def context_files(root: Path) -> Iterator[Path]:
    """Yield every file that an image is made of, in order, as `.containerignore` lists them."""
    lines = [line.strip() for line in (root / ".containerignore").read_text().splitlines()]
    left_out = {root / line for line in lines if line and line[0] not in "!#*"}
    for place in sorted(root / line[1:] for line in lines if line.startswith("!")):
        for folder, folders, names in os.walk(place) if place.is_dir() else ():
            folders[:] = sorted(
                each
                for each in folders
                if each != "__pycache__" and Path(folder, each) not in left_out
            )
            paths = (Path(folder, name) for name in sorted(names))
            yield from (path for path in paths if not path.is_symlink())
        if place.is_file():
            yield place


def context_digest(root: Path, base: str, others: Sequence[Path] = ()) -> str:
    """Return a digest of the files that images are made of, of their base, and of other files."""
    digest = hashlib.sha256(base.encode())
    for path in (*context_files(root), *others):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.relative_to(root)} {content}".encode())
    return digest.hexdigest()


def exists(name: str) -> bool:
    """Return whether this machine has the image."""
    command = ["buildah", "inspect", "--type", "image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_base() -> None:
    """Make the base image unless it exists.

    Raises:
        SystemExit: mmdebstrap failed, or Debian has other packages than debian.txt says.
    """
    if exists(BASE):
        return
    pinned = DEBIAN.read_text()
    made_at = int(pinned.split()[0])
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "rootfs.tar"
        made = debian_rootfs(tar, made_at)
        if made != pinned:
            changes = unified_diff(pinned.splitlines(), made.splitlines(), n=0, lineterm="")
            raise SystemExit(
                "Debian's packages aren't those of deploy/images/debian.txt; take them in by"
                " `make images-lock`, and commit what it writes:\n" + "\n".join(list(changes)[2:])
            )
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(tar), "/")
        buildah("config", "--env", "LANG=C.UTF-8", "--label", VENDOR_LABEL, container)
        buildah("commit", "--quiet", "--rm", "--timestamp", str(made_at), container, BASE)


def debian_rootfs(tar: Path, made_at: int) -> str:
    """Make the base's files of Debian's current packages; return what debian.txt is to say.

    Args:
        tar: where to write them, the same bytes whenever packages and time are the same.
        made_at: seconds since 1970 that no file is newer than.

    Debian's own servers have them, unless DEBIAN_SOURCES is set to lines of apt's sources.
    """
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    made = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", "--aptopt=Acquire::Retries=3"),
            *(f"--include={','.join(_PACKAGES)}", *left_out),
            # Licences stay.
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            *(f"--customize-hook={hook}" for hook in _HOOKS),
            *(_SUITE, str(tar)),
            *os.environ.get("DEBIAN_SOURCES", "").splitlines(),
        ],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(made_at)},
        check=False,
    )
    if made.returncode:
        raise SystemExit(f"mmdebstrap failed with code {made.returncode}")
    with tarfile.open(tar) as files, tar.open("rb") as file:
        status = files.extractfile("./var/lib/dpkg/status").read().decode()  # type: ignore[union-attr]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    packages = re.findall(r"^Package: (.+)\n(?:.+\n)*?Version: (.+)$", status, re.MULTILINE)
    lines = [f"{made_at} sha256:{digest}", *(f"{name}={version}" for name, version in packages)]
    return "".join(f"{line}\n" for line in lines)


def build_flags(scratch: Path) -> list[str]:
    """Return flags of every build: pip's settings as a secret, what they refer to as volumes."""
    secret = scratch / "pip.conf"
    secret.touch(mode=0o600)
    settings = pip_settings()
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    with secret.open("w") as file:
        parser.write(file)
    named = {path for text in settings.values() for path in text.split() if path.startswith("/")}
    volumes = [f"--volume={path}:{path}:ro" for path in sorted(named) if Path(path).exists()]
    limits = [
        f"--ulimit={name}={':'.join(str(each) for each in resource.getrlimit(kind))}"
        for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
    ]
    return [f"--secret=id=pip,src={secret}", *volumes, *limits]


def pip_settings() -> dict[str, str]:
    """Return pip's settings on this machine: of its files, and of variables, which come first."""
    if find_spec("pip") is None:
        return {}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in lines:
        name, _, text = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = text[1:-1].encode().decode("unicode_escape")
    # `compile` is ours to choose: no process may write what it compiled.
    merged = {**found["global"], **found["install"], **found[":env:"]}
    return {
        key: text for key, text in merged.items() if key not in ("compile", "no-compile", "target")
    }


def build(role: str, base: str, flags: Sequence[str], labels: Mapping[str, str]) -> None:
    """Build a role's image."""
    # HEALTHCHECK is Docker's, so the image has Docker's format. Isolation by chroot works as root
    # in a container, too.
    buildah(
        *("build", "--layers", "--format=docker"),
        *("--isolation=chroot", "--network=host"),
        *("--file=deploy/images/Containerfile", f"--build-arg=BASE={base}"),
        *(f"--target={role}", f"--tag={image(role, base)}"),
        *(f"--label={name}={text}" for name, text in labels.items()),
        *flags,
        str(ROOT),
        output=False,
    )


def remove_earlier(names: Sequence[str]) -> None:
    """Remove the builds that these replace, and builds' layers; what a container uses stays."""
    ours = ("images", "--filter", f"label={VENDOR_LABEL}")
    repositories = {name.partition(":")[0] for name in names}
    for name in buildah(*ours, "--format", "{{.Name}}:{{.Tag}}").split():
        if name.partition(":")[0] in repositories and name not in names:
            subprocess.run(["buildah", "rmi", name], capture_output=True, check=False)
    if untagged := buildah(*ours, "--quiet", "--filter", "dangling=true").split():
        subprocess.run(["buildah", "rmi", *untagged], capture_output=True, check=False)


def image_labels(base: str) -> dict[str, str]:
    """Return what each image says of its making."""
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False, text=True
    ).stdout.strip()
    standard = {
        "base.name": base,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revision": revision or "unknown",
        "version": version(),
    }
    return {f"org.opencontainers.image.{name}": text for name, text in standard.items()}


def written_sbom(role: str, name: str, target: Path) -> int:
    """Copy the image's SBOM out of it; return the number of its packages.

    Images with the same packages have one SBOM; the copy has the name of the image.
    """
    container = buildah("from", "--pull=never", name)
    try:
        document = json.loads((Path(buildah("mount", container)) / SBOM).read_text())
    finally:
        buildah("rm", container)
    document["metadata"]["component"]["name"] = f"vireo-{role}"
    target.write_text(json.dumps(document, indent=1) + "\n")
    return len(document["components"])


def buildah(*arguments: str, output: bool = True) -> str:
    """Run buildah; return what it printed, or nothing if that is to be shown instead.

    Raises:
        SystemExit: it failed; its messages were shown.
    """
    stdout = subprocess.PIPE if output else None
    finished = subprocess.run(
        ["buildah", *arguments], cwd=ROOT, stdout=stdout, check=False, text=True
    )
    if finished.returncode:
        raise SystemExit(f"buildah {arguments[0]} failed with code {finished.returncode}")
    return finished.stdout.strip() if output else ""


if __name__ == "__main__":
    main()
