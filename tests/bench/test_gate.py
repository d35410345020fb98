from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.gate import deviations, judged, likenesses, measured
from tests.builders.datasets import ring_interactions, write_small_dataset
from vireo.server.home import Home
from vireo.training.train import train_all

pytestmark = pytest.mark.integration


def test_a_release_and_itself_are_equal_and_alike_and_a_loss_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_small_dataset(home, "ring", ring_interactions())
    train_all(home, "ring", "quick", console=Console(quiet=True))
    first, second, served = measured(home, home, "ring")
    found = judged([(first, second)])
    assert (found["refused"], found["pairs"]) == ([], 1)
    assert found["passed_after_loss"]["ndcg_10"] == 0
    assert deviations([(first, second)])["ndcg_10"] == {"all": 0.0, "beyond_viewers": 0.0}
    assert set(likenesses([(first, second)])["fit_overlap_10"]) == {1.0}
    assert 0 < likenesses([(second, served)])["fit_overlap_10"][0] <= 1.0
