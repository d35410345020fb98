"""Who has come back, and what each group's measures are means of."""

from __future__ import annotations

import numpy as np

from bench.asked_gap import groups_of, measured, summary
from server.features.viewer import ViewerFeatures


def viewer(*times: int, asked_at: int) -> ViewerFeatures:
    return ViewerFeatures(history_times=np.array(times, np.int64), asked_at=asked_at)


def test_a_gap_of_an_hour_makes_a_returning_viewer() -> None:
    viewers = [viewer(10, 20, asked_at=3619), viewer(10, 20, asked_at=3620)]
    groups = groups_of(viewers)
    assert {name: inside.tolist() for name, inside in groups.items()} == {
        "all": [True, True],
        "within_an_hour": [True, False],
        "after_an_hour": [False, True],
    }
    found = measured(np.array([0, 50]), groups)
    assert {name: values["hr_10"] for name, values in found.items()} == {
        "all": 0.5,
        "within_an_hour": 1.0,
        "after_an_hour": 0.0,
    }
    means = summary([{"with": found}, {"with": found}])
    assert means["with"]["all"]["recall_100"]["mean"] == 1.0  # type: ignore[index]


def test_a_group_without_viewers_has_no_measures() -> None:
    assert set(measured(np.array([3]), groups_of([viewer(1, asked_at=2)]))) == {
        "all",
        "within_an_hour",
    }
