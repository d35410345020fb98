"""What tests of several folders share: their order, what CI may skip, plain logs, and a stack."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from tests.scheduling import StacksBesideOthers, runs_stacks, turn

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.builders.stack import Stack
    from tests.otlp_sink import OtlpSink

REFUSED = "refused"
"""Property of a test's report: whom a secured stack refused, where, how, and what counted it."""

SKIPPED_IN_CI = (
    "there is no commit before this one",  # in a clone without history
    "there is no kube-apiserver",  # `.ci/run` doesn't build Kubernetes' servers: minutes
    "needs the right to mount a file system",  # which a container may lack
    "can't mount a file system here",
    "perf_analyzer can't be installed here",  # on Debian 12
    "systemd isn't installed",  # nor is it by `.ci/run`, as are the other programs
    "needs Debian's strace",
)
"""How the reasons begin for which a test may be skipped in CI; any other fails it."""

# Processes of ours configure their logs. In tests the default would draw each traceback with all
# variables of each frame: seconds, if they are a release's tables.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts tests of whole stacks first, and marks them."""
    items.sort(key=lambda item: turn(item.nodeid))
    for item in items:
        if runs_stacks(item.nodeid):
            item.add_marker(pytest.mark.stack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped in CI for a reason that isn't listed."""
    report = yield
    expected = hasattr(report, "wasxfail") or not os.environ.get("CI")
    if report.skipped and not expected and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(SKIPPED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not be skipped in CI: {reason}"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> StacksBesideOthers | None:
    """Have files of whole stacks run beside the others."""
    return StacksBesideOthers(config, log) if config.getvalue("dist") == "loadfile" else None


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
def otlp_sink() -> Iterator[OtlpSink]:
    """What `tiny_stack` exports spans to."""
    from tests.otlp_sink import running_otlp_sink

    with running_otlp_sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory, otlp_sink: OtlpSink) -> Iterator[Stack]:
    """A stack of two pods of each kind that serves the tiny home's release, "tiny-1".

    It traces the calls of callers who ask for it.

    It takes ten seconds to start. Who promotes another release to it rolls back, and gives it an
    id that nobody else has.
    """
    # Not needed by others, for whom Feast takes seconds to import.
    from tests.builders.stack import running_stack
    from tests.builders.tiny_home import DATASET, build_tiny_home

    home = build_tiny_home(tmp_path_factory.mktemp("tiny-stack"))
    publish = f"vireo release publish --data {DATASET}"
    traced = {"VIREO_OTLP_ENDPOINT": otlp_sink.endpoint, "VIREO_TRACE_SHARE": "0"}
    with running_stack(home.root, prepare=publish, settings=traced) as stack:
        yield stack
