"""Values of this process's metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from prometheus_client import REGISTRY

Grown: TypeAlias = Callable[..., float]


def sample(name: str, **labels: str) -> float:
    """Return the value of a sample that is exported already."""
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None, name
    return value


@pytest.fixture
def grown() -> Grown:
    """Returns by how much a sample has grown since the test began, from 0 if it is new."""
    before = {
        (each.name, frozenset(each.labels.items())): each.value
        for family in REGISTRY.collect()
        for each in family.samples
    }

    def difference(name: str, **labels: str) -> float:
        now = REGISTRY.get_sample_value(name, labels) or 0.0
        return now - before.get((name, frozenset(labels.items())), 0.0)

    return difference
