from collections.abc import Iterator

import pytest

from tests.builders.nats import RunningNats, running_nats


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    """A server for the tests of a module; videos have other ids in each."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server
