"""The example clients of each language: what they need, how they are built and run."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds for a call: of a busy machine


@dataclass(frozen=True)
class Target:
    """Address and credentials of a client."""

    address: str
    """host:port."""
    authority: Path | None = None
    """PEM file of trusted authorities; plaintext if None."""
    token: str | None = None
    """Bearer token."""


@dataclass(frozen=True)
class Answer:
    """What a client has printed, and its exit code."""

    code: int
    output: str
    errors: str

    @property
    def slate(self) -> Any:
        """Its document."""
        [slate] = self.slates
        return slate

    @property
    def slates(self) -> list[Any]:
        """Its documents, one a line."""
        assert self.code == 0, self
        return self.lines

    @property
    def lines(self) -> list[Any]:
        """What it printed, whether or not it failed then."""
        return [json.loads(line) for line in self.output.splitlines()]


@dataclass(frozen=True)
class ExampleClient:
    """One of the examples."""

    name: str
    command: tuple[str, ...]
    """How its README runs it in the checkout, before all flags."""
    document: str
    """Its README."""
    goal: str | None = None
    """What makes it, in clients/Makefile."""
    needs: tuple[str, ...] = ()
    """Programs and files, without which it can't be built or run."""

    @cache  # noqa: B019 - there are five, and once a run is enough
    def build(self) -> None:
        """Makes it from the protos; skips the test where what it needs is missing."""
        missing = [each for each in self.needs if shutil.which(each) is None and not _there(each)]
        if missing:
            reason = f"{self.name}: no {', '.join(missing)}; `make clients-env` installs them"
            pytest.skip(reason)
        if self.goal is not None:
            buf = Path(sys.executable).with_name("buf")
            make = ["make", "-C", "clients", self.goal, f"BUF={buf}"]
            with _BUILDING.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                done = subprocess.run(
                    make, cwd=CHECKOUT, capture_output=True, text=True, timeout=_BUILD_SECONDS
                )
            assert done.returncode == 0, done.stdout + done.stderr

    async def recommend(self, target: Target, viewer: str, *flags: str) -> Answer:
        """Runs it for one slate of 20 videos, unless the flags say how many."""
        return await self.run(target, [viewer], *flags)

    async def run(self, target: Target, viewers: Sequence[str], *flags: str) -> Answer:
        """Runs it for any number of viewers.

        What is secret goes along in the environment, as the READMEs advise.
        """
        program, *arguments = self.command
        if program == "python":
            program = sys.executable
        flags = ("--timeout", str(TIMEOUT), "--page-size", "20", *flags)
        if target.authority is not None:
            flags = (*flags, "--tls-ca", str(target.authority))
        kept = {name: text for name, text in os.environ.items() if not name.startswith("VIREO_")}
        own = {"PYTHONPATH": str(CHECKOUT / "clients" / "python")}
        if target.token is not None:
            own["VIREO_TOKEN"] = target.token
        process = await asyncio.create_subprocess_exec(
            *(program, *arguments, *flags, target.address, *viewers),
            cwd=CHECKOUT,
            env={**kept, **own},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, output.decode(), errors.decode())


_BUILD_SECONDS = 600
_BUILDING = Path(tempfile.gettempdir()) / f"vireo-clients-{os.getuid()}.lock"
"""Tests that run side by side build one after the other."""


def _there(path: str) -> bool:
    return path.startswith("/") and Path(path).exists()


PYTHON = ExampleClient(
    "python", ("python", "clients/python/examples/recommend.py"), "clients/python/README.md"
)
GO = ExampleClient(
    "go",
    ("clients/go/build/recommend",),
    "clients/go/README.md",
    "go",
    (
        "go",
        "protoc-gen-go",
        "protoc-gen-go-grpc",
        "/usr/share/gocode/src/google.golang.org/grpc",
        "/usr/share/gocode/src/google.golang.org/genproto/googleapis/rpc",
    ),
)
JAVA = ExampleClient(
    "java",
    ("clients/java/recommend",),
    "clients/java/README.md",
    "java",
    (
        "javac",
        "protoc",
        "grpc_java_plugin",
        "/usr/share/java/grpc-netty.jar",
        "/usr/share/java/netty-tcnative.jar",
        "/usr/share/java/gson.jar",
        "/usr/share/java/proto-google-common-protos.jar",
        "/usr/share/java/geronimo-annotation-1.3-spec.jar",
    ),
)
NODE = ExampleClient(
    "node",
    ("node", "clients/typescript/build/examples/recommend.js"),
    "clients/typescript/README.md",
    "typescript",
    ("node", "npm"),
)
BROWSER = ExampleClient(
    "browser",
    ("node", "clients/typescript/build/examples/web/recommend.js"),
    "clients/typescript/README.md",
    "typescript",
    ("node", "npm", "/usr/bin/chromium", "certutil"),
)
OVER_GRPC = (PYTHON, GO, JAVA, NODE)
ALL = (*OVER_GRPC, BROWSER)
