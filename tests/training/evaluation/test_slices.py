from __future__ import annotations

import numpy as np
import pandas as pd

from vireo.training.evaluation.chain import TestViewers
from vireo.training.evaluation.run import sliced, slicings

DAY = pd.Timestamp("2024-01-01", tz="UTC")


def frame(rows: list[tuple[str, str, int, str]]) -> pd.DataFrame:
    columns = ["viewer_id", "video_id", "time", "part"]
    watches = pd.DataFrame(rows, columns=columns)
    watches["time"] = DAY + pd.to_timedelta(watches["time"], "D")
    return watches


def test_viewers_are_cut_by_activity_and_targets_by_popularity_and_age() -> None:
    watches = frame(
        [
            ("a", "0", 0, "train"),
            ("a", "1", 10, "test"),
            ("b", "0", 0, "train"),
            ("b", "9", 1, "train"),
            ("b", "2", 20, "test"),
        ]
    )
    videos = pd.DataFrame({"video_id": [str(row) for row in range(10)]})
    videos["published"] = pd.Series([pd.NaT, DAY, *[pd.NaT] * 8], dtype="datetime64[us, UTC]")
    viewers = TestViewers(
        ids=("a", "b"),
        targets=np.array([1, 2]),
        outcomes=np.array([[1], [0]], np.float32),
        watched=(np.array([0]), np.array([0, 9])),
        moments=np.array([10, 20]),
    )
    counts = np.array([2, 0, 0, 0, 0, 0, 0, 0, 0, 1])

    cut = slicings(watches, videos, viewers, counts)

    assert {name: list(part) for name, part in cut["activity"].groups.items()} == {
        "1 to 1": [True, False],
        "2 to 2": [False, True],
    }
    assert list(cut["popularity"].groups) == ["middle: the next four tenths"]
    # The second target's own watch is the first that anyone had of it.
    assert {name: list(part) for name, part in cut["age"].groups.items()} == {
        "0 to 0 days": [False, True],
        "10 to 10 days": [True, False],
    }
    found = sliced(cut, {"chain": np.array([0, 50])})
    groups = found["activity"]["groups"]
    assert [group["n"] for group in groups] == [1, 1]
    assert groups[0]["systems"]["chain"]["hr_10"]["value"] == 1.0
    assert groups[1]["systems"]["chain"]["recall_100"]["value"] == 1.0
