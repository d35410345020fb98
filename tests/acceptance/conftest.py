"""The demo's own release and data, served by a stack on free ports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from server.home import Home
from tests.builders.stack import Stack, running_stack

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
REFUSED = "refused"
"""Property of a test's report: whom a secured stack refused, where, how, and what counted it."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End the output with a table of what a secured stack refused, in whichever process."""
    rows: list[tuple[str, ...]] = [
        cast("tuple[str, ...]", row)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, row in report.user_properties
        if name == REFUSED
    ]
    if not rows:
        return
    rows.insert(0, ("refused", "at", "answer", "counted"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("refused by a secured stack")
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(scope="session")
def demo_home() -> Home:
    """The home in which `vireo demo --once` has run; runs it where it hasn't."""
    home = Home.current()
    if not (home.staged_release("ml-100k") / "manifest.json").exists():
        subprocess.run(
            ["make", "demo", "ONCE=1"],
            cwd=CHECKOUT,
            env={**os.environ, "VIREO_HOME": str(home.root)},
            check=True,
            timeout=900,
        )
    return home


@pytest.fixture(scope="session")
def stack(demo_home: Home) -> Iterator[Stack]:
    """A stack that serves the demo's release."""
    with running_stack(demo_home.root) as stack:
        yield stack
