"""Progress bars, and lines in their place in logs, where long work would look like a hang."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID

SECONDS = 20.0
"""Interval between lines."""

Item = TypeVar("Item")


class Bars(Progress):
    """Progress bars that print a line every SECONDS if the console isn't a terminal."""

    _printed_at = 0.0

    def start(self) -> None:
        """Show the bars."""
        self._printed_at = time.monotonic()
        super().start()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task."""
        super().advance(task_id, advance)
        self._print()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task."""
        super().update(task_id, **changes)
        self._print()

    def _print(self) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now < self._printed_at + SECONDS:
            return
        self._printed_at = now
        states = [
            f"{task.description} {task.percentage:.0f}%" for task in self.tasks if not task.finished
        ]
        if states:
            self.console.print(", ".join(states), highlight=False, soft_wrap=True)


def tracked(items: Iterable[Item], description: str, console: Console) -> Iterator[Item]:
    """Yield the items behind a transient progress bar, like `rich.progress.track`."""
    with Bars(console=console, transient=True) as bars:
        yield from bars.track(items, description=description)
