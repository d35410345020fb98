"""Columns by name: what is filled in, and what is refused by the column's name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from vireo.server.columns import (
    MAX_COLUMNS,
    BadColumnError,
    check_columns,
    decode_columns,
    encode_columns,
)
from vireo.server.signals import Column
from vireo.v1.viewer_pb2 import ScoreColumn

DECLARED = {"near": Column("near", "", low=0.0), "far": Column("far", "", high=9.0, neutral=-1.0)}


def test_columns_survive_the_hop() -> None:
    columns = {"near": np.array([0.1, 2], np.float32), "far": np.array([-3, 9], np.float32)}
    found = decode_columns(encode_columns(columns), 2, DECLARED)
    assert found.keys() == columns.keys()
    for name, values in columns.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_a_column_is_encoded_as_its_message_would_be_from_a_list(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    columns: tuple[Any, ...] = (values.astype(np.float32), values.astype(">f4"), values)
    for column in columns:
        expected = ScoreColumn(name="near", values=column.tolist())
        assert encode_columns({"near": column}) == [expected]


def test_an_absent_column_is_neutral_and_order_does_not_matter() -> None:
    found = decode_columns([ScoreColumn(name="near", values=[5, 6, 7])], 3, DECLARED)
    assert list(found) == ["near", "far"]
    assert found["far"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (ScoreColumn(name="mood", values=[1, 2]), "'mood' is none of near, far"),
        (ScoreColumn(name="near", values=[1, 2]), "near occurs twice"),
        (ScoreColumn(name="far", values=[1]), "far has 1 values instead of 2"),
        (ScoreColumn(name="far", values=[1, 10]), "far has a value outside -3.40282e+38 to 9"),
        (ScoreColumn(name="far", values=[np.nan, 1]), "far has a value that isn't finite"),
    ],
)
def test_a_column_that_breaks_the_contract_is_named(column: ScoreColumn, message: str) -> None:
    with pytest.raises(BadColumnError, match=re.escape(message)):
        decode_columns([ScoreColumn(name="near", values=[1, 2]), column], 2, DECLARED)


def test_columns_of_other_builds_are_passed_on() -> None:
    columns = [ScoreColumn(name="mood", values=[-1])]
    assert [*check_columns(columns, 1, DECLARED)] == ["mood"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([ScoreColumn(name="mood", values=[1])], "mood has 1 values instead of 2"),
        ([ScoreColumn(values=[1, 2])], "a name has 0 bytes instead of 1 to 64"),
        ([ScoreColumn(name="é" * 33, values=[1, 2])], "a name has 66 bytes instead of 1 to 64"),
        (
            [ScoreColumn(name=str(place)) for place in range(MAX_COLUMNS + 1)],
            "65 columns, more than 64",
        ),
    ],
)
def test_columns_of_other_builds_keep_the_rules_of_the_protos(
    columns: list[ScoreColumn], message: str
) -> None:
    with pytest.raises(BadColumnError, match=message):
        check_columns(columns, 2, DECLARED)
