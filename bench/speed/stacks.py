"""Stacks of a Python process that py-spy sampled, and what they say of its functions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import psutil

import server
from bench.speed.cpu import thread_seconds
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
    """What part of the processor time of the threads that run Python a function has."""

    name: str
    where: str
    ours: bool
    whole: float
    """While it is anywhere on the stack."""
    own: float
    """While it is what runs, or has called what isn't Python."""


@dataclass(frozen=True)
class Stacks:
    """Where the processor time of threads went."""

    seconds: Mapping[tuple[Frame, ...], float]
    """Of each stack; its thread comes first, what runs last."""
    samples: int
    threads: Mapping[int, str]
    """Names of the threads that were seen, by the kernel's id."""

    @staticmethod
    def parse(collapsed: str, used: Mapping[int, float]) -> Stacks:
        """Shares out each thread's processor time among the stacks that were seen of it.

        Args:
            collapsed: lines of `frame;frame;frame count`, the first frame being the thread.
            used: processor seconds of each thread meanwhile, by the kernel's id.

        Raises:
            VireoError: a line is not that.
        """
        of_thread: dict[int, Counter[tuple[Frame, ...]]] = defaultdict(Counter)
        threads = {}
        for line in collapsed.splitlines():
            stack, _, count = line.rpartition(" ")
            first, *frames = stack.split(";")
            thread = _THREAD.fullmatch(first)
            if thread is None:
                raise VireoError(f"py-spy wrote a line that begins with no thread: {line[:200]}")
            tid, name = int(thread[1]), thread[2] or "thread without a name"
            threads[tid] = name
            of_thread[tid][Frame(name, ""), *map(Frame.parse, frames)] += int(count)
        seconds: dict[tuple[Frame, ...], float] = defaultdict(float)
        for tid, counts in of_thread.items():
            for whole, seen in counts.items():
                seconds[whole] += used.get(tid, 0.0) * seen / counts.total()
        return Stacks(seconds, sum(each.total() for each in of_thread.values()), threads)

    @property
    def total(self) -> float:
        """Seconds of all."""
        return sum(self.seconds.values())

    def functions(self) -> list[Function]:
        """Every function that was seen, that with the largest share first."""
        whole: dict[Frame, float] = defaultdict(float)
        own: dict[Frame, float] = defaultdict(float)
        for (_, *frames), seconds in self.seconds.items():
            for frame in set(frames):  # one that calls itself counts once
                whole[frame] += seconds
            if frames:
                own[frames[-1]] += seconds
        total = self.total
        return [
            Function(frame.name, frame.where, frame.ours, whole[frame] / total, own[frame] / total)
            for frame in sorted(whole, key=lambda frame: -whole[frame])
        ]


@dataclass(frozen=True)
class Sampled:
    """A process for a while."""

    stacks: Stacks
    seconds: Mapping[str, float]
    """Processor seconds of its threads, by name; of those that run no Python, too."""


def sampled(pid: int, seconds: int, rate: int, output: Path) -> Sampled:
    """Samples a process without stopping it, which would take as much time as what is measured.

    To py-spy, threads that wait for a core run, too. So what a thread's time is, the kernel says,
    and samples only say what it was spent on.

    Args:
        pid: of a Python process.
        seconds: how long.
        rate: samples a second of each thread that runs.
        output: file for what py-spy writes.

    Raises:
        VireoError: py-spy is missing, may not read the process, or it ends.
    """
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        raise VireoError(f"{spy} is missing; install it with: make setup")
    shape = [f"--pid={pid}", f"--duration={seconds}", f"--rate={rate}", "--nonblocking"]
    written = ["--threads", "--function", "--full-filenames", "--format=raw", f"--output={output}"]
    try:
        before = thread_seconds(pid)
        run = subprocess.run([spy, "record", *shape, *written], capture_output=True, text=True)
        used = {tid: each - before.get(tid, 0.0) for tid, each in thread_seconds(pid).items()}
    except psutil.NoSuchProcess as error:
        raise VireoError(f"there is no process {pid} to sample; see its log") from error
    said = (run.stdout + run.stderr).strip()[-300:]
    if run.returncode:
        raise VireoError(f"py-spy could not sample process {pid} (it may need root): {said}")
    stacks = Stacks.parse(output.read_text(), used)
    if not stacks.total:
        raise VireoError(f"py-spy saw process {pid} run in none of {seconds} seconds: {said}")
    named: dict[str, float] = defaultdict(float)
    for tid, each in used.items():
        named[stacks.threads.get(tid) or _name(pid, tid)] += each
    return Sampled(stacks, named)


def _name(pid: int, tid: int) -> str:
    """What the kernel calls a thread."""
    try:
        return Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip()
    except OSError:  # it has ended
        return "thread that has ended"


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
