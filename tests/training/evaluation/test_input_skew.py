"""Inputs of the ranking model in slates are compared with those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.ranking_sets import ranking_set
from tests.builders.served_site import VIEWERS, build_site
from vireo.server.features.model_inputs import (
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.training.evaluation import input_skew
from vireo.training.evaluation.input_skew import distributions
from vireo.training.evaluation.replay import Replayer
from vireo.training.ranking.training_set import CandidateLists


def _as_trained(rows: Sequence[dict[str, Any]], replayer: Replayer) -> CandidateLists:
    """Training's lists with the inputs of some slates, a candidate in each."""
    served = [values for values, _ in input_skew._served(rows, replayer.retrieval.release)]
    features, retrieval, match = (values[:, None] for values in served[:3])
    some = ranking_set("two_tower").watches.viewers
    viewers = replace(some, viewer_features=served[3])
    rows_of = np.zeros((len(features), 1), np.int64)
    return CandidateLists(viewers, rows_of, features, retrieval, match)


def test_inputs_of_the_model_are_compared_with_those_of_its_training(
    tmp_path: Path,
) -> None:
    site = build_site(tmp_path)
    replayer, rows = Replayer(site.release), [site.row(each) for each in VIEWERS]
    lists = _as_trained(rows[::2], replayer)
    found = distributions(rows[1::2], replayer.retrieval.release, lists)
    columns = (VIDEO_FEATURES, RETRIEVAL_FEATURES, MATCH_FEATURES, VIEWER_FEATURES)
    assert len(found) == sum(map(len, columns))
    assert [each.feature for each in found if each.shifted and each.stability > 1] == []
    for row in rows:
        row["retrieval_ease"] = [100 * each for each in row["retrieval_ease"]]
    found = distributions(rows[1::2], replayer.retrieval.release, lists)
    worst = max(found, key=lambda each: each.stability)
    assert (worst.feature, worst.shifted) == ("retrieval ease", True)
    assert abs(worst.served) > 10 * abs(worst.trained)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_flag_that_becomes_another_one_is_shifted(constant: float) -> None:
    trained = np.full(100, constant, np.float32)
    assert input_skew._stability(trained, trained, np.ones(100)) == 0
    assert input_skew._stability(trained, 1 - trained, np.ones(100)) > 1


def test_sampled_candidates_stand_for_those_that_werent_recorded() -> None:
    row = {"candidate_keys": [0] * 300, "recorded": [0] * 130, "video_ids": ["v"] * 10}
    few = {"candidate_keys": [0] * 122, "recorded": [0] * 120, "video_ids": ["v"] * 10}
    assert input_skew._stands_for(few).tolist() == [1.0] * 118 + [2.0] * 2
    counts = input_skew._stands_for(row)
    assert counts[:110].tolist() == [1.0] * 110
    assert counts.sum() == 300
    assert input_skew._stands_for({**row, "recorded": [0] * 300}).tolist() == [1.0] * 300
