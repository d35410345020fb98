"""One cluster for all tests here; each has a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.kubernetes_cluster import Cluster
from tests.builders.kubernetes_servers import running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
