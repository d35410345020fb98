"""What perf sees of a process below Python: which library the processor is in.

perf samples only what runs. It's Debian's package linux-perf; where it's missing or not permitted,
the reason is told instead.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

_SAMPLE = re.compile(r"\s*[0-9a-f]+ (.*) \((.*)\)")
"""Address, symbol and file."""
_LIBRARIES = (
    (re.compile(r"^\[(?!unknown)|\.ko\b"), "kernel"),
    (re.compile(r"libpython|/python3?(\.\d+)?$|/lib-dynload/"), "Python interpreter"),
    (re.compile(r"/grpc/"), "gRPC core"),
    (re.compile(r"/onnxruntime/"), "ONNX Runtime"),
    (re.compile(r"/faiss"), "faiss"),
    (re.compile(r"/numpy"), "numpy"),
    (re.compile(r"/google/_upb/"), "protobuf"),
    (re.compile(r"/(lib(c|m|pthread)|ld-linux[^/]*)[.-][^/]*$"), "C library"),
)
_UNKNOWN = "[unknown]"
_TOP = 10


@dataclass(frozen=True)
class Share:
    """One part of the samples."""

    name: str
    share: float


@dataclass(frozen=True)
class Native:
    """Shares of a process's processor time, the largest first."""

    samples: int
    libraries: list[Share]
    symbols: list[Share]
    """The ten functions of libraries that run most, as far as these tell their names."""

    @staticmethod
    def parse(script: str) -> Native:
        """Reads what `perf script -F ip,sym,dso` writes, a line a sample."""
        libraries: Counter[str] = Counter()
        symbols: Counter[str] = Counter()
        for found in filter(None, map(_SAMPLE.fullmatch, script.splitlines())):
            symbol, file = found.groups()
            library = library_of(file)
            libraries[library] += 1
            if symbol != _UNKNOWN:
                symbols[f"{symbol.partition('+0x')[0]} ({library})"] += 1
        total = libraries.total()
        return Native(total, shares(libraries), shares(symbols, total)[:_TOP])


def shares(amounts: Mapping[str, float], total: float | None = None) -> list[Share]:
    """Parts of the total, which is that of all unless it is given, the largest first."""
    whole = sum(amounts.values()) if total is None else total
    ordered = sorted(amounts.items(), key=lambda each: -each[1])
    return [Share(name, amount / whole) for name, amount in ordered]


def library_of(file: str) -> str:
    """The library that a file of machine code belongs to, as a person would call it."""
    for pattern, name in _LIBRARIES:
        if pattern.search(file):
            return name
    parts = PurePath(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].split(".")[0]
    return parts[-1] if parts else _UNKNOWN


def sampled_natively(pid: int, seconds: int, rate: int, output: Path) -> Native | str:
    """Samples a process with perf.

    Args:
        pid: of the process.
        seconds: how long.
        rate: samples a second of each processor that it runs on.
        output: file for what perf writes; it is gone afterwards.

    Returns:
        The shares, or why there are none.
    """
    if shutil.which("perf") is None:
        return "perf is missing (Debian's linux-perf)"
    record = ["record", "-q", "-e", "cpu-clock", f"-F{rate}", f"-p{pid}", f"-o{output}"]
    run = _perf([*record, "--", "sleep", str(seconds)])
    if run.returncode:
        return f"perf is not permitted here: {_first(run.stderr)}"
    run = _perf(["script", f"-i{output}", "-F", "ip,sym,dso"])
    output.unlink()
    native = Native.parse(run.stdout)
    return native if native.samples else f"perf saw nothing: {_first(run.stderr)}"


def _perf(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["perf", *arguments], capture_output=True, text=True, errors="replace")


def _first(said: str) -> str:
    return " ".join(said.split())[:200] or "it did not say why"
