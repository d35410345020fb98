"""What a request to rank carries of the site's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from server.ranking.query import PageRules
from server.rule_columns import check_rule_columns

if TYPE_CHECKING:
    from vireo.v1 import rules_pb2


def page_rules(
    rules: rules_pb2.SlateRules, columns: rules_pb2.RuleColumns, count: int
) -> PageRules:
    """Return what rules ask of the page of `count` candidates.

    Raises:
        BadRuleColumnError: a column doesn't fit.
    """
    check_rule_columns(columns, rules, count)
    return PageRules(
        factors=np.array(columns.factors, np.float32) if columns.factors else None,
        pins={pin.position - 1: pin.key for pin in rules.pins},
        caps=[
            (cap.max, _Labels(column).of)
            for cap, column in zip(rules.caps, columns.labels, strict=False)
        ],
        new_share=rules.new_share if rules.HasField("new_share") else None,
    )


class _Labels:
    """A column of labels, any number for each candidate."""

    def __init__(self, column: rules_pb2.LabelColumn) -> None:
        self._labels = column.labels[:]
        self._ends = np.cumsum(column.counts).tolist()

    def of(self, place: int) -> Sequence[int]:
        """Return the labels of the candidate at a place."""
        return self._labels[self._ends[place - 1] if place else 0 : self._ends[place]]
