"""Which tests may run beside each other: `pytest -n 2` runs two groups at a time."""

from __future__ import annotations

import pytest

_WHOLE_STACKS = ("acceptance", "bench", "server/stack")
"""Tests that run a dozen processes each: two of them at once would leave no core for either."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a file's tests in one process, where they share what it has set up."""
    for item in items:
        file = item.path.relative_to(config.rootpath / "tests").as_posix()
        group = "stacks" if file.startswith(_WHOLE_STACKS) else file
        item.add_marker(pytest.mark.xdist_group(group))
