"""Progress bars, and lines in their place in logs, where long work would look like a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

SECONDS = 20.0
"""Interval between lines."""
_shown: list[Bars] = []
"""Bars on display, innermost last."""

Item = TypeVar("Item")


class Bars(Progress):
    """Progress bars whose state `heartbeat` prints if the console isn't a terminal."""

    def start(self) -> None:
        """Show the bars, if they aren't yet."""
        super().start()
        if self not in _shown:
            _shown.append(self)

    def stop(self) -> None:
        """Hide the bars, if they are shown."""
        if self in _shown:
            _shown.remove(self)
        super().stop()

    def state(self) -> str:
        """Return one line with every unfinished bar."""
        return ", ".join(
            f"{task.description} {task.percentage:.0f}%" for task in self.tasks if not task.finished
        )


def tracked(items: Iterable[Item], description: str, console: Console) -> Iterator[Item]:
    """Yield the items behind a transient progress bar, like `rich.progress.track`."""
    with Bars(console=console, transient=True) as bars:
        yield from bars.track(items, description=description)


@contextmanager
def heartbeat(console: Console, work: str, seconds: float = SECONDS) -> Iterator[None]:
    """Print a line every `seconds` while the block runs, unless the console is a terminal.

    `work` says what the block does; it is printed while no bar is shown.
    """
    if console.is_terminal:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def beat() -> None:
        while not ended.wait(seconds):
            state = next((line for bars in reversed(_shown) if (line := bars.state())), work)
            minutes, rest = divmod(int(time.monotonic() - began), 60)
            console.print(f"{minutes}:{rest:02d}  {state}", highlight=False, soft_wrap=True)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
