"""What viewers of a simulated world tire of, found again in what they were shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit, logit

from tests.builders.shown import event, files_of, slate, write_archive
from vireo.server.features.activity import SHOWN_SECONDS
from vireo.server.features.fatigue import times_shown
from vireo.training.data.schema import TIME
from vireo.training.data.shown import shown_videos
from vireo.training.ranking.fatigue import fitted_strength, times_shown_before

DAY = 86_400
SLATES, VIDEOS, PAGE = 40, 12, 6


def world(
    strength: float, viewers: int = 220, seed: int = 0, bias: float = 0.0, scale: float = 1.0
) -> pa.Table:
    """Slates of some of few videos, within a month, to viewers who tire of them.

    Positions further down are played less by `bias`; the ranker's logits are `scale` times those of
    the world without either.
    """
    chance = np.random.default_rng(seed)
    rows = []
    for viewer in range(viewers):
        watch = expit(chance.normal(-1.5, 1.0, VIDEOS))
        shown: list[tuple[int, int]] = []
        for at in np.sort(chance.integers(0, 30 * DAY, SLATES)).tolist():
            page = chance.permutation(VIDEOS)[:PAGE]
            page = page[np.argsort(-watch[page])] if bias else page
            keys, times = (np.array([each[part] for each in shown], np.int64) for part in (0, 1))
            left = np.log1p(times_shown(page, keys, times, at))
            seen = chance.random(PAGE) < 0.8
            lower = bias * np.log(np.arange(1, PAGE + 1))
            played = seen & (
                chance.random(PAGE) < expit(logit(watch[page]) - strength * left - lower)
            )
            ranked = expit(scale * logit(watch[page]))
            rows += [
                (f"w{viewer}", f"v{video}", at * 1_000_000, *each)
                for video, *each in zip(
                    page.tolist(),
                    seen.tolist(),
                    played.tolist(),
                    ranked,
                    range(1, PAGE + 1),
                    strict=True,
                )
            ]
            shown += [(video, at - at % SHOWN_SECONDS) for video in page[seen].tolist()]
    names = ("viewer_id", "video_id", "answered_at", "seen", "played", "task_watch", "position")
    types = (pa.string(), pa.string(), TIME, pa.bool_(), pa.bool_(), pa.float32(), pa.int32())
    columns = [
        pa.array(each, kind) for each, kind in zip(zip(*rows, strict=True), types, strict=True)
    ]
    return pa.table(columns, names).sort_by("answered_at")


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_known_strength_is_found_whatever_the_positions_do(strength: float, bias: float) -> None:
    assert fitted_strength(world(strength, bias=bias)) == pytest.approx(strength, abs=0.1)


def test_the_strength_is_in_units_of_the_rankers_logits() -> None:
    assert fitted_strength(world(0.4, scale=2.0)) == pytest.approx(0.8, abs=0.15)


def test_who_does_not_tire_has_no_fatigue() -> None:
    assert max(fitted_strength(world(0.0, seed=seed)) for seed in (1, 2)) < 0.05


def test_who_likes_repetition_has_no_fatigue() -> None:
    assert fitted_strength(world(-1.0, viewers=60)) == 0


def test_too_few_repetitions_or_plays_are_fitted_to_nothing() -> None:
    assert fitted_strength(world(1.0, viewers=1).slice(0, 200)) == 0
    unplayed = world(1.0, viewers=10)
    none = pa.array(np.zeros(len(unplayed), np.bool_))
    assert fitted_strength(unplayed.set_column(4, "played", none)) == 0
    unranked = pa.array([None] * len(unplayed), pa.float32())
    assert fitted_strength(unplayed.set_column(5, "task_watch", unranked)) == 0


def test_repetitions_count_as_in_ranking() -> None:
    shown = world(0.5, viewers=3, seed=4)
    found = times_shown_before(shown)
    seconds = shown["answered_at"].cast(pa.int64()).to_numpy() // 1_000_000
    viewers, videos = (shown[name].to_numpy() for name in ("viewer_id", "video_id"))
    for row in range(0, len(shown), 7):
        earlier = (viewers == viewers[row]) & (seconds < seconds[row]) & shown["seen"].to_numpy()
        pairs = {
            (video, at - at % 60)
            for video, at in zip(videos[earlier], seconds[earlier], strict=True)
        }
        keys = np.array([int(video[1:]) for video, _ in pairs], np.int64)
        times = np.array([at for _, at in pairs], np.int64)
        asked = np.array([int(videos[row][1:])])
        expected = times_shown(asked, keys, times, int(seconds[row]))
        assert found[row] == pytest.approx(expected[0], abs=1e-9)


def test_what_is_shown_twice_within_a_minute_counts_once(tmp_path: Path) -> None:
    slates = [slate(f"r{at}", "w", "a b", at) for at in (0, 10, 50, 70)]
    seen = [event("impression", "w", "a", at + 1, f"r{at}") for at in (0, 10, 70)]
    folder = write_archive(tmp_path, slates, seen)
    shown = shown_videos(files_of(folder, "slates"), files_of(folder, "events"), scores=True)
    found = times_shown_before(shown).reshape(4, 2)
    assert found[:, 0] == pytest.approx([0, 1, 1, 1], abs=1e-3)
    assert found[:, 1].tolist() == [0, 0, 0, 0]
    assert fitted_strength(shown) == 0
