"""Stacks of a Python process that py-spy sampled, and what they say of its functions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import server
from server.errors import VireoError

_OURS = Path(server.__file__).parent
_THREAD = re.compile(r"thread \((\d+)\)(?:: (.*))?")
_FRAME = re.compile(r"(.*) \((.*):(\d+)\)")


@dataclass(frozen=True)
class Frame:
    """A function on a stack."""

    name: str
    where: str
    """File and first line, below the repository or below the packages; empty for a thread."""
    ours: bool = False

    @staticmethod
    def parse(text: str) -> Frame:
        """A frame as py-spy writes it, `name (file:line)`."""
        found = _FRAME.fullmatch(text)
        if found is None:
            return Frame(text, "")
        name, file, line = found.groups()
        ours = Path(file).is_relative_to(_OURS)
        return Frame(name, f"{_shortened(file, ours=ours)}:{line}", ours)


@dataclass(frozen=True)
class Function:
    """How much of the samples a function is in."""

    name: str
    where: str
    ours: bool
    whole: float
    """Share of the samples in which it is anywhere on the stack."""
    own: float
    """Share of those in which it is what runs, or has called what isn't Python."""


@dataclass(frozen=True)
class Stacks:
    """What was seen: threads that waited aren't."""

    counts: Mapping[tuple[Frame, ...], int]
    """Samples of each stack; its thread comes first, what runs last."""
    threads: Mapping[int, str]
    """Names of the threads that were seen, by the kernel's id."""

    @staticmethod
    def parse(collapsed: str) -> Stacks:
        """Reads lines of `frame;frame;frame count`, the first frame being the thread."""
        counts: Counter[tuple[Frame, ...]] = Counter()
        threads = {}
        for line in collapsed.splitlines():
            stack, _, count = line.rpartition(" ")
            first, *frames = stack.split(";")
            thread = _THREAD.fullmatch(first)
            if thread is None:
                raise VireoError(f"py-spy wrote a line that begins with no thread: {line[:200]}")
            name = thread[2] or "thread without a name"
            threads[int(thread[1])] = name
            counts[Frame(name, ""), *map(Frame.parse, frames)] += int(count)
        return Stacks(counts, threads)

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def functions(self) -> list[Function]:
        """Every function that was seen, that with the largest share first."""
        whole: Counter[Frame] = Counter()
        own: Counter[Frame] = Counter()
        for (_, *frames), count in self.counts.items():
            for frame in set(frames):  # one that calls itself counts once
                whole[frame] += count
            if frames:
                own[frames[-1]] += count
        total = max(1, self.samples)
        return [
            Function(frame.name, frame.where, frame.ours, count / total, own[frame] / total)
            for frame, count in whole.most_common()
        ]


def sampled(pid: int, seconds: int, rate: int, output: Path) -> Stacks:
    """Samples a process without stopping it, which would take as much time as what is measured.

    Args:
        pid: of a Python process.
        seconds: how long.
        rate: samples a second of each thread that runs.
        output: file for what py-spy writes.

    Raises:
        VireoError: py-spy is missing, or may not read the process.
    """
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        raise VireoError(f"{spy} is missing; install it with: make setup")
    shape = [f"--pid={pid}", f"--duration={seconds}", f"--rate={rate}", "--nonblocking"]
    written = ["--threads", "--function", "--full-filenames", "--format=raw", f"--output={output}"]
    run = subprocess.run([spy, "record", *shape, *written], capture_output=True, text=True)
    said = (run.stdout + run.stderr).strip()[-300:]
    if run.returncode:
        raise VireoError(f"py-spy could not sample process {pid} (it may need root): {said}")
    stacks = Stacks.parse(output.read_text())
    if not stacks.samples:
        raise VireoError(f"py-spy saw process {pid} run in none of {seconds} seconds: {said}")
    return stacks


def _shortened(file: str, *, ours: bool) -> str:
    if ours:
        return str(Path(file).relative_to(_OURS.parent))
    parts = PurePath(file).parts
    return "/".join(parts[_after(parts, ("site-packages", "lib-dynload")) :])


def _after(parts: tuple[str, ...], folders: Iterable[str]) -> int:
    """Where a path goes on below packages, or below the standard library."""
    for folder in folders:
        if folder in parts:
            return parts.index(folder) + 1
    return next((n + 1 for n, part in enumerate(parts) if re.fullmatch(r"python3\.\d+", part)), 0)
