"""Progress bars for feature builds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn

from vireo.training.features.build import Progress
from vireo.training.heartbeat import Bars


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """Yield the progress callback for `build_features`, with one bar per step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console) as bars:
        steps: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = bars.add_task(step, total=total)
            bars.update(steps[step], completed=done)

        yield progress
