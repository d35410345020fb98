from __future__ import annotations

import random
from itertools import chain, repeat

import pytest

from bench.stack import free_port_base


def test_reserved_ports_are_not_assigned_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = free_port_base()
    draw = random.randrange
    draws = chain([first], repeat(None))
    monkeypatch.setattr(
        "bench.stack.random.randrange", lambda *range_: next(draws) or draw(*range_)
    )
    assert free_port_base() != first
