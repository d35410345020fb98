"""The probabilities by which a synthetic world is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from bench.true_scores import TrueScores, config_of
from vireo.server.errors import VireoError
from vireo.training.data.synth.events import all_events
from vireo.training.data.synth.world import World, WorldConfig


def test_the_probabilities_are_those_with_which_videos_come_next() -> None:
    world = World.of(WorldConfig(viewers=40, videos=600, events=2_000, days=20))
    scores, events = TrueScores(world), np.concatenate(list(all_events(world)))
    last: dict[int, tuple[int, int]] = {}
    expected, came = [], []
    for viewer, video, micros in zip(
        *(events[name].tolist() for name in ("viewer", "video", "time")), strict=True
    ):
        now = micros // 1_000_000
        before, before_at = last.get(viewer, (None, 0))
        of = scores.of(viewer, before, before_at, now)
        assert of.sum() == pytest.approx(1.0)
        best = np.argsort(-of)[:5]
        expected.append(of[best].sum())
        came.append(video in best)
        last[viewer] = (video, now)
    deviation = np.sqrt(np.mean(expected) / len(came))
    assert np.mean(came) == pytest.approx(np.mean(expected), abs=4 * deviation)


def test_only_a_world_whose_scores_are_known_is_measured() -> None:
    source = "made up: vireo data synth --viewers 5 --videos 20 --events 50 --days 9 --seed 3"
    assert config_of(source) == WorldConfig(viewers=5, videos=20, events=50, seed=3, days=9)
    assert config_of(f"{source} --drift 4").drift == 4
    for other in (f"{source} --context", f"{source} --repeats 0.5", "MovieLens"):
        with pytest.raises(VireoError, match="is no data set of"):
            config_of(other)
