from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.logged_data import LoggedData
from tests.builders.nats import running_nats
from vireo.server.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def logged(tmp_path: Path, home: Home) -> Iterator[LoggedData]:
    """An empty log beside data set "small"."""
    write_small_dataset(home, "small", random_interactions())
    with running_nats(tmp_path / "nats") as nats:
        yield LoggedData(nats, home)
