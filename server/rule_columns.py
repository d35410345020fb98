"""Columns of the inner hops for the site's rules: what retrieval finds out about its candidates."""

from __future__ import annotations

import numpy as np

from vireo.v1 import rules_pb2

MIN_FACTOR, MAX_FACTOR = 0.01, 100.0
"""Bounds of a rule's factor of scores, and of the product of several."""
MAX_LABELS = 32
"""Maximum labels of one candidate that a cap counts."""


class BadRuleColumnError(Exception):
    """Columns for the rules break the contract; the message names the column."""


def check_rule_columns(
    columns: rules_pb2.RuleColumns, rules: rules_pb2.SlateRules, count: int
) -> None:
    """Check what retrieval answered for some rules of its `count` candidates.

    A build that knows no rules answers none of the columns.

    Raises:
        BadRuleColumnError: a column differs in length from the candidates or the rules, or a factor
            is out of its bounds.
    """
    if columns.factors:
        _check_length("factors", len(columns.factors), count)
        factors = np.array(columns.factors, np.float32)
        if not ((factors >= np.float32(MIN_FACTOR)) & (factors <= MAX_FACTOR)).all():
            raise BadRuleColumnError(
                f"factors has a value outside {MIN_FACTOR:g} to {MAX_FACTOR:g}"
            )
    for name, values, asked in (
        ("labels", columns.labels, rules.caps),
        ("forbidden", columns.forbidden, rules.filters),
        ("boosted", columns.boosted, rules.boosts),
    ):
        if len(values):
            _check_length(name, len(values), len(asked))
    for place, column in enumerate(columns.labels):
        _check_length(f"labels[{place}].counts", len(column.counts), count)
        _check_length(f"labels[{place}].labels", len(column.labels), sum(column.counts))


def _check_length(name: str, values: int, wanted: int) -> None:
    if values != wanted:
        raise BadRuleColumnError(f"{name} has {values} values instead of {wanted}")
