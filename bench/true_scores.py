"""How much of what can be known of a synthetic world its candidates hold.

    vireo data synth --viewers 200000 --videos 1000000 --events 10000000 --name million
    vireo train --data million --no-refit
    python -m bench.true_scores --data million

The world's true scores are the probabilities by which it was drawn: of each viewer's tastes on that
day, of the next episode, and of each video in its topic. A model that has only seen watches can't
know the tastes. The session is known by the viewer's last new video: hides and repeated plays since
then are ignored, so the scores are a little worse than they could be. Printed is the share of
held-out watches that the release's candidates hold, and the share that as many of the best true
scores hold.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from vireo.server.arrays import Float64Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.keys import video_keys
from vireo.server.home import Home
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.data.dataset import describe_dataset
from vireo.training.data.synth.events import NEXT_EPISODE, STRAY
from vireo.training.data.synth.world import HEAD, REGIONS, TASTE_SHARES, World, WorldConfig
from vireo.training.features.history import viewers_before
from vireo.training.features.watches import load_watches
from vireo.training.heartbeat import tracked
from vireo.training.ranking.training_set import draw_candidates

_PAUSE = 5
"""Seconds between an event of a session and the next, beside the time that is watched."""


class TrueScores:
    """The probabilities of the next watch by which a world is drawn."""

    def __init__(self, world: World) -> None:
        self._world = world
        rank = world.rank.astype(np.float64)
        width = np.log((rank + 1 + HEAD) / (rank + HEAD))
        self._in_topic = width / np.bincount(world.topic, width)[world.topic]
        self._strays = np.diff(world.topic_draws[REGIONS], prepend=0.0)

    def of(self, viewer: int, last: int | None, last_at: int, now: int) -> Float64Array:
        """Return the probability of each video as the viewer's next event, float64[n].

        Args:
            viewer: number of the viewer.
            last: the video of the viewer's last event, None without one.
            last_at: when that was, Unix seconds.
            now: time of the next event, Unix seconds.
        """
        world, topics = self._world, np.zeros(len(self._strays))
        # A session goes on within the time that its last video takes.
        on = last is not None and now - last_at <= _PAUSE + world.duration[last] + 1
        slots = np.arange(len(TASTE_SHARES))
        tastes = world.taste(np.full(len(slots), viewer), slots, np.full(len(slots), now))
        # The topic of the last video is the session's, unless it was a stray one.
        np.add.at(topics, tastes, TASTE_SHARES * (STRAY if on else 1.0))
        if on:
            topics[world.topic[last]] += 1 - STRAY
        topics = (1 - STRAY) * topics + STRAY * self._strays
        out = world.published <= now
        in_topic = self._in_topic * out
        held = np.bincount(world.topic, in_topic, minlength=len(topics))
        scores: Float64Array = (topics / np.maximum(held, 1e-12))[world.topic] * in_topic
        if on:
            episode = int(world.next_episodes(np.array([last]), np.array([now]))[0])
            if episode >= 0:
                scores *= 1 - NEXT_EPISODE
                scores[episode] += NEXT_EPISODE
        return scores


def main() -> None:
    """Run from the command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a data set of `vireo data synth`")
    parser.add_argument("--viewers", type=int, default=2_000, help="maximum viewers; default 2000")
    given = parser.parse_args()
    home = Home.current()
    world = World.of(config_of(describe_dataset(home, given.data).source))
    measuring = home.measuring
    release = CandidateRelease.load(measuring.staged_release(given.data))
    watches, repo = load_watches(measuring, given.data), measuring.features(given.data)
    test = watches[watches["part"] == "test"].drop_duplicates("viewer_id", keep="last")
    test = test.sample(min(given.viewers, len(test)), random_state=0)
    del watches
    viewers = viewers_before(repo, test)
    targets = release.rows.find(video_keys(test["video_id"].tolist()))
    count = release.manifest.candidates
    rows, _ = draw_candidates(release, viewers, targets, count)
    held = (rows == targets[:, None]).any(1)
    scores = TrueScores(world)
    numbers = _numbers(release.ids)
    names = _numbers(test["viewer_id"].tolist()).tolist()
    cases = zip(names, viewers, numbers[targets].tolist(), strict=True)
    hits = []
    for name, viewer, target in tracked(list(cases), "true scores", Console(stderr=True)):
        past, watched = (
            numbers[known[known >= 0]]
            for known in map(release.rows.find, (viewer.history_keys, viewer.watched_keys))
        )
        last = int(past[-1]) if len(past) else None
        last_at = int(viewer.history_times[-1]) if len(past) else 0
        of = scores.of(name, last, last_at, viewer.asked_at)
        of[watched] = -1
        hits.append(int((of > of[target]).sum()) < count)
    found, possible = float(held.mean()), float(np.mean(hits))
    Console().print(
        f"{count} candidates hold {found:.3f} of {len(held):,} held-out watches, as many of the "
        f"best true scores {possible:.3f}: a ratio of {found / max(possible, 1e-9):.3f}",
        soft_wrap=True,
        highlight=False,
    )


def config_of(source: str) -> WorldConfig:
    """Return the world that a data set's source names; raise VireoError if it isn't one."""
    words = shlex.split(source.partition("vireo data synth ")[2])
    values = dict(zip(words[::2], words[1::2], strict=False))
    if {"--context", "--repeats"} & {*words} or not words:
        raise VireoError(
            f"{source!r} is no data set of `vireo data synth` without --context and --repeats"
        )
    viewers, videos, events, seed, days = (
        int(values[f"--{name}"]) for name in ("viewers", "videos", "events", "seed", "days")
    )
    drift = float(values.get("--drift", 1))
    return WorldConfig(viewers, videos, events, seed, days, drift=drift)


def _numbers(ids: Sequence[str]) -> Int64Array:
    """Return the numbers of a world's ids, int64[n]."""
    return np.array([int(name[1:]) for name in ids], np.int64)


if __name__ == "__main__":
    main()
