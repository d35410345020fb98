"""The tables of signals against the API and against what trained releases are pinned to."""

from __future__ import annotations

import numpy as np
import pytest

from vireo.server.features.model_inputs import RETRIEVAL_FEATURES
from vireo.server.signals import (
    EVERY_SOURCE,
    LIVE_SOURCES,
    ORDERING,
    SCORES,
    SOURCES,
    TASKS,
    Column,
)
from vireo.v1 import recommendation_pb2, viewer_pb2


def test_sources_have_the_numbers_of_the_api() -> None:
    in_api = {name: number for name, number in viewer_pb2.Source.items() if number}
    assert in_api == {f"SOURCE_{source.name.upper()}": source.number for source in EVERY_SOURCE}


def test_tasks_are_fields_of_the_api() -> None:
    in_api = recommendation_pb2.TaskScores.DESCRIPTOR.fields_by_name
    assert [task.name for task in TASKS] == list(in_api)


def test_one_source_fills_what_the_quotas_leave_and_its_score_orders() -> None:
    assert [source.name for source in SOURCES if source.quota is None] == [ORDERING]
    assert ORDERING in {score.name for score in SCORES}
    assert sum(source.quota or 0 for source in EVERY_SOURCE) <= 1


def test_the_ranking_model_reads_no_source_of_the_log() -> None:
    assert not {f"from_{source.name}" for source in LIVE_SOURCES} & {*RETRIEVAL_FEATURES}


def test_retrieval_features_keep_the_order_of_older_releases() -> None:
    scores, sources = RETRIEVAL_FEATURES[: len(SCORES)], RETRIEVAL_FEATURES[len(SCORES) :]
    assert scores[:3] == ("two_tower", "co_watch", "ease")
    assert sources[:5] == (
        "from_two_tower",
        "from_co_watch",
        "from_popular",
        "from_ease",
        "from_fresh",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, 2.5])
def test_a_column_with_one_value_out_of_bounds_is_not_admitted(value: float) -> None:
    score = Column("s", "", low=0.0, high=2.0)
    assert score.admits(np.array([0, 1, 2], np.float32))
    assert score.admits(np.empty(0, np.float32))
    assert not score.admits(np.array([0, value, 2], np.float32))


def test_without_bounds_any_number_is_admitted() -> None:
    largest = np.finfo(np.float32).max
    assert Column("s", "").admits(np.array([-largest, largest], np.float32))
    assert not Column("s", "").admits(np.array([np.inf], np.float32))
