from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vireo.ops.cli import evaluate
from vireo.ops.cli.train import shortfall
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo


def data(watches: int, videos: int, viewers: int) -> DatasetInfo:
    now = datetime.now(UTC)
    return DatasetInfo(
        name="films",
        source="",
        interactions=watches,
        videos=videos,
        viewers=viewers,
        events={"play": watches},
        first=now,
        last=now,
        problems={},
        fingerprint="",
    )


def metrics(chain: float, item_knn: float = 0.1, two_tower: float = 0.1) -> dict[str, float]:
    systems = {"chain": chain, "item_knn": item_knn, "two_tower": two_tower, "popularity": 0.05}
    found = {f"{name}.ndcg_10": value for name, value in systems.items()}
    return {**found, "ranker.candidate_recall": 0.12}


MANY = data(100_000, 1_000, 5_000)


def test_a_release_that_beats_popularity_and_item_knn_is_short_of_nothing() -> None:
    assert shortfall(metrics(0.11), MANY) == ""
    assert shortfall({"validation_calibration_error": 0.1}, MANY) == "", "nothing was held out"


@pytest.mark.parametrize(
    ("found", "info", "reason"),
    [
        (metrics(0.1), data(300, 30, 40), "40 viewers are too few to tell"),
        (metrics(0.1), data(20_000, 5_000, 2_000), "with 4.0 watches a video, models learn little"),
        (metrics(0.1, two_tower=0.02), MANY, r"the towers learned less \(0\.020\)"),
        (metrics(0.1), MANY, "candidates hold 12% of the held-out videos"),
    ],
)
def test_a_release_that_does_not_beat_a_baseline_says_why_in_one_line(
    found: dict[str, float], info: DatasetInfo, reason: str
) -> None:
    line = shortfall(found, info)
    assert line.startswith("NDCG@10 is 0.100, no better than item-kNN 0.100: ")
    assert re.search(reason, line), line
    assert "\n" not in line


def test_each_baseline_that_is_ahead_is_named() -> None:
    assert "no better than popularity 0.050, item-kNN 0.100: " in shortfall(metrics(0.04), MANY)


def test_options_before_a_command_are_not_lost_without_a_word() -> None:
    done = CliRunner().invoke(evaluate.app, ["--data", "films", "page"])
    assert done.exit_code == 2
    assert "options of page go after its name" in done.output


def test_an_unknown_release_without_a_store_names_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    monkeypatch.delenv("VIREO_S3_ENDPOINT", raising=False)
    with pytest.raises(VireoError, match="set VIREO_S3_ENDPOINT"):
        evaluate.stored_manifest(Home(tmp_path), "r-9")
