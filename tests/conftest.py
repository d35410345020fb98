"""What tests of several folders share: plain tracebacks in logs, and a stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from tests.builders.stack import Stack

# Processes of ours configure their logs. In tests the default would draw each traceback with all
# variables of each frame: seconds, if they are a release's tables.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of two pods of each kind that serves the tiny home's release, "tiny-1".

    It takes ten seconds to start. Who promotes another release to it rolls back, and gives it an
    id that nobody else has.
    """
    # Not needed by others, for whom Feast takes seconds to import.
    from tests.builders.stack import running_stack
    from tests.builders.tiny_home import DATASET, build_tiny_home

    home = build_tiny_home(tmp_path_factory.mktemp("tiny-stack"))
    publish = f"vireo release publish --data {DATASET}"
    with running_stack(home.root, prepare=publish) as stack:
        yield stack
