from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vireo.server.errors import VireoError
from vireo.training.evaluation.baselines import settings as module
from vireo.training.evaluation.baselines.ease import EaseConfig
from vireo.training.evaluation.baselines.markov_blend import MarkovConfig
from vireo.training.evaluation.baselines.past import Past
from vireo.training.evaluation.baselines.registry import BASELINES, DECLARED
from vireo.training.evaluation.baselines.settings import (
    SETTINGS_FILE,
    SHIPPED,
    BaselineSettings,
    Trial,
    TunedBaselines,
    add_to_report,
    read_settings,
    tuned_for,
    write_settings,
)

PAST = Past([np.array([0, 1, 2]), np.array([3])], 4)
TUNED = TunedBaselines(
    fingerprint=PAST.fingerprint,
    viewers=2,
    baselines={
        "ease_recency": BaselineSettings(
            chosen={"regularisation": 1000.0, "half_life": 3.0},
            ndcg_10=0.12,
            search="whole grid",
            grid={"half_life": (None, 3.0)},
            tried=(Trial(settings={"regularisation": 1000.0, "half_life": 3.0}, ndcg_10=0.12),),
        ),
        "markov_blend": BaselineSettings(chosen={"steps": (1.0, 0.5), "half_life": None}),
    },
)


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_settings(tmp_path, TUNED)
    assert read_settings(tmp_path) == TUNED
    assert TUNED.configs() == {
        "ease_recency": EaseConfig(1000.0, 3.0),
        "markov_blend": MarkovConfig(steps=(1.0, 0.5), half_life=None),
    }
    assert read_settings(tmp_path / "nowhere") is None


def test_settings_tuned_in_this_home_override_the_checkouts(
    tmp_path: Path, nothing_shipped: Path
) -> None:
    assert not tuned_for(PAST, tmp_path, "films").baselines
    shipped = TUNED.model_copy(update={"viewers": 7})
    write_settings(nothing_shipped / "films", shipped)
    assert tuned_for(PAST, tmp_path, "films") == shipped
    write_settings(tmp_path, TUNED)
    assert tuned_for(PAST, tmp_path, "films") == TUNED
    assert not tuned_for(PAST, tmp_path / "elsewhere", "others").baselines


def test_settings_of_other_histories_are_not_taken(tmp_path: Path) -> None:
    write_settings(tmp_path, TUNED)
    for other in (
        Past([np.array([0, 1]), np.array([2, 3])], 4),
        Past([np.array([0, 2, 1]), np.array([3])], 4),
        Past(PAST.histories, 5),
    ):
        assert not tuned_for(other, tmp_path, "films").baselines


@pytest.mark.parametrize(
    "content", ["{", json.dumps({"fingerprint": "a", "baselines": {"ease": {"chosen": {"l2": 1}}}})]
)
def test_a_damaged_file_and_one_of_another_build_are_refused_with_the_way_out(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / SETTINGS_FILE).write_text(content)
    with pytest.raises(VireoError, match="vireo evaluate study baselines"):
        tuned_for(PAST, tmp_path, "films")


def test_a_report_has_the_settings_of_all_that_were_measured_tuned_or_not(tmp_path: Path) -> None:
    add_to_report(tmp_path, TunedBaselines(fingerprint=PAST.fingerprint).of(["ease"]))
    add_to_report(tmp_path, TUNED.of(["ease_recency"]))

    found = read_settings(tmp_path)

    assert found is not None
    assert set(found.baselines) == {"ease", "ease_recency"}
    assert found.configs()["ease"] == DECLARED["ease"].start
    assert found.baselines["ease"].ndcg_10 is None
    assert found.baselines["ease_recency"].ndcg_10 == 0.12
    add_to_report(tmp_path, TunedBaselines(fingerprint="of other data").of(["ease"]))
    later = read_settings(tmp_path)
    assert later is not None
    assert set(later.baselines) == {"ease"}


@pytest.mark.parametrize("dataset", ["ml-100k", "ml-1m"])
def test_what_the_checkout_has_is_the_best_of_what_was_tried(dataset: str) -> None:
    found = read_settings(SHIPPED / dataset)

    assert found is not None
    assert tuple(found.baselines) == BASELINES
    for name, settings in found.baselines.items():
        assert set(settings.grid) == set(DECLARED[name].grid)
        best = max(settings.tried, key=lambda trial: trial.ndcg_10)
        assert (settings.chosen, settings.ndcg_10) == (best.settings, best.ndcg_10)
