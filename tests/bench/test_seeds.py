from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.seeds import mean, result_of, summary, viewer_errors
from vireo.server.home import Home

MEASURES = {"hr_10": 0.2, "ndcg_10": 0.1}


def result(seed: int) -> dict[str, object]:
    systems = {
        name: {m: v + seed / 100 for m, v in MEASURES.items()} for name in ("chain", "served")
    }
    spent = {"train_seconds": 100.0 + seed, "train_cpu_seconds": 150.0}
    ranker = {"watch_predicted_over_observed": 0.9 + seed / 10}
    errors = {name: {"hr_10": 0.0} for name in systems}
    return {"seed": seed, "systems": systems, "viewer_errors": errors, "ranker": ranker, **spent}


def test_the_interval_is_students_t_over_seeds() -> None:
    values = [0.1, 0.12, 0.17]
    half = 4.302653 * np.std(values, ddof=1) / 3**0.5  # The 97.5th percentile of t with 2.
    expected = {"mean": 0.13, "low": 0.13 - half, "high": 0.13 + half}
    assert mean(values) == pytest.approx(expected)


def test_the_interval_is_wider_by_the_noise_of_the_viewers_whom_all_seeds_share() -> None:
    over_seeds, both = mean([0.1, 0.12, 0.17]), mean([0.1, 0.12, 0.17], [0.02, 0.04])
    assert both["mean"] == over_seeds["mean"]
    half, wider = (0.13 - (each["low"] or 0.0) for each in (over_seeds, both))
    assert wider == pytest.approx(np.hypot(half, 1.959964 * 0.03))
    assert both["high"] == pytest.approx(0.13 + wider)


def test_the_noise_of_viewers_is_that_of_the_reports_ranks(tmp_path: Path) -> None:
    ranks = np.array([0, 200, 5, 50, 7, 3])
    np.savez(tmp_path / "ranks.npz", chain=ranks, served=ranks)
    errors = viewer_errors(tmp_path / "ranks.npz")
    assert errors["served"]["hr_10"] == pytest.approx(np.std(ranks < 10, ddof=1) / 6**0.5)
    assert set(errors["chain"]) == {"hr_10", "ndcg_10", "recall_100"}
    noisy = [result(seed) | {"viewer_errors": errors} for seed in (0, 2)]
    plain, found = summary("a", "b", [result(0), result(2)]), summary("a", "b", noisy)
    low, lower = (each["mean"]["served"]["hr_10"]["low"] for each in (plain, found))
    assert lower < low
    assert found["ranker"] == plain["ranker"]


def test_one_seed_has_no_interval() -> None:
    assert mean([3.0]) == {"mean": 3.0, "low": None, "high": None}


def test_a_summary_has_each_seed_and_the_means_of_what_was_served() -> None:
    found = summary("films", "quick", [result(0), result(2)])
    assert [each["seed"] for each in found["seeds"]] == [0, 2]
    assert found["mean"]["served"]["ndcg_10"]["mean"] == pytest.approx(0.11)
    assert found["ranker"]["watch_predicted_over_observed"]["mean"] == pytest.approx(1)
    assert found["train_seconds"]["mean"] == pytest.approx(101)
    assert found["train_cpu_seconds"]["mean"] == pytest.approx(150)
    json.dumps(found, allow_nan=False)


def test_a_finished_seed_is_not_trained_again(tmp_path: Path) -> None:
    done = tmp_path / "seeds" / "films-quick" / "4" / "result.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps(result(4)))
    assert result_of(Home(tmp_path), "films", "quick", 4) == result(4)
