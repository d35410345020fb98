"""Archived slates are made again as they were, whatever was live, and a difference is located."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.catalogue import followed, removed, take, upserted
from tests.builders.filters import condition, message, random_expression
from tests.builders.releases import CREATORS, build_release, video_ids
from tests.builders.replaying import Serving
from vireo.server.features.keys import video_key
from vireo.server.live.live import Live
from vireo.server.releases import layout
from vireo.training.evaluation.replay import Replayer, changed, replayed
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.rules_pb2 import Boost, Cap, Pin, SlateRules

OWN = video_ids(40)
CREATED = [f"creator-{number}" for number in range(CREATORS)]
NEWS = [f"new-{number}" for number in range(8)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("other"), release_id="tiny-2", seed=5)


def request(draw: random.Random, live: Live | None = None) -> RetrieveCandidatesRequest:
    """What a gateway asks for some viewer, of whom some have watched and hidden videos."""
    known = [*OWN, *(NEWS if live else ())]
    made = RetrieveCandidatesRequest(count=draw.choice([15, 30]), page_size=draw.choice([3, 10]))
    watched = [video_key(each) for each in draw.sample(known, draw.choice([0, 3, 6]))]
    made.viewer.history_keys.extend(watched)
    made.viewer.history_times.extend(range(100, 100 + len(watched)))
    made.viewer.watched_keys.extend(watched)
    made.viewer.watch_count = len(watched)
    made.viewer.asked_at = 1_700_000_000 + draw.randrange(1000)
    made.viewer.context.hour = draw.randrange(25)
    if draw.random() < 0.3:
        made.viewer.hidden_keys.append(video_key(draw.choice(known)))
        made.viewer.hidden_times.append(made.viewer.asked_at - 86_400)
    if draw.random() < 0.3:
        there = [each for each in NEWS if live and live.overlay.get(video_key(each))]
        made.seed_key = video_key(draw.choice([*OWN[:10], *there]))
    if draw.random() < 0.4:
        labels = {"tag": ["cat", "dog"], "creator": CREATED[:3]}
        filtered, _ = random_expression(draw, labels, {"duration": [60.0, 600.0]})
        made.filter.CopyFrom(filtered)
    if draw.random() < 0.4:
        cats = message(condition("tag", any_of=["cat"]))
        pin = Pin(key=video_key(draw.choice(known)), position=2)
        caps = [Cap(attribute="creator", max=2)]
        made.rules.CopyFrom(
            SlateRules(boosts=[Boost(filter=cats, factor=3)], pins=[pin], caps=caps)
        )
    if draw.random() < 0.2:
        made.excluded_keys.extend(video_key(each) for each in draw.sample(OWN, 4))
        made.shown_before = 2
    return made


def lives(draw: random.Random) -> Live:
    """A log by which videos came, changed and went, and some are trending."""
    entries = []
    for position, name in enumerate(draw.sample([*NEWS, *OWN[:10]], 12), start=1):
        tags = draw.sample(["cat", "dog", "owl"], 2)
        creator = draw.choice(CREATED)
        entries.append(upserted(position, name, title=name, tags=tags, creator=creator))
    entries += [removed(100, name, at=5) for name in draw.sample(OWN[5:], 3)]
    trending = {"": draw.sample([*OWN, *NEWS], 6)}
    return followed(*entries, trending=trending, impressions={NEWS[0]: 5000, NEWS[1]: 3})


def test_slates_are_the_same_whatever_was_live_and_asked(release: Path, other: Path) -> None:
    replayers = {"tiny-1": Replayer(release), "tiny-2": Replayer(other)}
    draw, made, live_videos, blocked = random.Random(4), 0, 0, 0
    placements = set[str]()
    for moment in range(16):
        live = lives(draw) if moment % 4 else None
        serving = Serving(draw.choice([release, other]), live)
        for number in range(10):
            row = serving.row(request(draw, live), f"{moment}-{number}")
            outcome = replayed(row, replayers)
            assert outcome.difference is None, (moment, number)
            assert outcome.exact
            made += not outcome.skipped
            live_videos += len(row["ranked_videos"])
            blocked += len(row["blocked_keys"])
            placements.update(row["placements"])
    assert made > 120
    assert live_videos
    assert blocked
    assert placements >= {"score", "pinned", "new", "trending"}


def test_videos_that_the_gateway_left_out_are_left_out_again(release: Path) -> None:
    serving, draw = Serving(release), random.Random(1)
    asked = request(draw)
    first = serving.row(asked)["candidate_keys"][:2]
    row = serving.row(asked, gone=frozenset(first))
    assert sorted(row["left_out_keys"]) == sorted(first)
    assert not {*first} & {*row["candidate_keys"]}
    outcome = replayed(row, {"tiny-1": Replayer(release)})
    assert outcome.difference is None


def test_candidates_and_pages_of_two_releases_are_each_compared_with_their_own(
    release: Path, other: Path
) -> None:
    mixed = Serving(release)
    mixed.ranking = Serving(other).ranking
    row = mixed.row(request(random.Random(3)))
    assert (row["retrieval_release_id"], row["release_id"]) == ("tiny-1", "tiny-2")
    both = {"tiny-1": Replayer(release), "tiny-2": Replayer(other)}
    assert replayed(row, both).difference is None


def _viewer(row: dict[str, Any]) -> dict[str, Any]:
    return {"asked_at": row["asked_at"] + 40 * 86_400}


def _score(row: dict[str, Any]) -> dict[str, Any]:
    return {"retrieval_ease": [each + 0.5 for each in row["retrieval_ease"]]}


def _task(row: dict[str, Any]) -> dict[str, Any]:
    return {"task_like": [*row["task_like"][:1], 0.123, *row["task_like"][2:]]}


def _page(row: dict[str, Any]) -> dict[str, Any]:
    first, second, *rest = row["recorded"]
    names = row["video_ids"]
    columns = [name for name in row if name == "score" or name.startswith(("task_", "retrieval_"))]
    swapped = {
        name: [row[name][1], row[name][0], *row[name][2:]]
        for name in columns
        if isinstance(row[name], list) and len(row[name]) > 1
    }
    swapped["video_ids"] = [names[1], names[0], *names[2:]]
    return swapped | {"recorded": [second, first, *rest]}


@pytest.mark.parametrize(
    ("change", "stage", "value"),
    [
        (_score, "retrieval", "ease of video-"),
        (_task, "ranking", "task_like of video-"),
        (_page, "ranking", "position 1"),
    ],
)
def test_a_difference_is_located(
    release: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    stage: str,
    value: str,
) -> None:
    made = request(random.Random(12))
    made.ClearField("filter")
    made.ClearField("rules")
    row = Serving(release).row(made)
    outcome = replayed({**row, **change(row)}, {"tiny-1": Replayer(release)})
    assert outcome.difference is not None
    assert outcome.difference.stage == stage
    assert outcome.difference.value.startswith(value)
    assert outcome.difference.recorded != outcome.difference.computed


def test_a_changed_feature_of_one_video_is_located_at_that_video(
    release: Path, tmp_path: Path
) -> None:
    draw, row = random.Random(2), None
    row = Serving(release).row(request(draw))
    spoilt = build_release(tmp_path / "spoilt")
    path = spoilt / layout.VIDEO_FEATURE_TABLE
    table = np.load(path)
    name = row["video_ids"][0]
    table[OWN.index(name)] += 3
    np.save(path, table)
    outcome = replayed(row, {"tiny-1": Replayer(spoilt)})
    assert outcome.difference is not None
    assert (outcome.difference.stage, outcome.difference.value) == (
        "ranking",
        f"task_watch of {name}",
    )


def test_what_cannot_be_made_again_says_why(release: Path) -> None:
    asked = request(random.Random(1))
    asked.ClearField("filter")
    row = Serving(release).row(asked)
    replayers = {"tiny-1": Replayer(release)}
    for changes, reason in (
        ({"candidate_keys": []}, "popular list"),
        ({"failed_sources": ["ease"]}, "sources had failed: ease"),
        ({"lacks_changes": True}, "its record lacks changes"),
        ({"recorded": []}, "wasn't ranked"),
        ({"release_id": "tiny-0"}, "release tiny-0 is gone"),
    ):
        assert reason in replayed({**row, **changes}, replayers).skipped


@pytest.mark.parametrize("stage", ["retrieval", "ranking"])
def test_a_slate_of_a_moment_in_which_a_video_waits_for_its_vector_is_not_made_again(
    release: Path, stage: str
) -> None:
    live = followed(upserted(1, NEWS[0], tags=["cat"], creator=CREATED[0]))
    serving, replayers = Serving(release, live), {"tiny-1": Replayer(release)}
    asked = RetrieveCandidatesRequest(count=30, page_size=10)
    asked.viewer.history_keys.append(video_key(NEWS[0]))
    asked.viewer.history_times.append(100)
    stages = {"retrieval": serving.retrieval.release.live, "ranking": serving.ranking.release.live}
    take(live.overlay, upserted(2, NEWS[0], tags=["dog"], creator=CREATED[1]))
    for name, each in stages.items():
        assert each is not None
        each.update([video_key(NEWS[0])])
        if name != stage:
            each.place_some()
    row = serving.row(asked)
    assert "its record lacks changes" in replayed(row, replayers).skipped
    assert changed(row, replayers["tiny-1"]) is not None
    waiting = stages[stage]
    assert waiting is not None
    waiting.place_some()
    outcome = replayed(serving.row(asked), replayers)
    assert (outcome.skipped, outcome.difference) == ("", None)


def test_a_new_release_is_compared_with_what_was_shown(release: Path, other: Path) -> None:
    serving, draw = Serving(release), random.Random(7)
    rows = [serving.row(request(draw), str(number)) for number in range(10)]
    for row in rows:
        row["placements"] = ["score"] * len(row["placements"])
    same = [changed(row, Replayer(release)) for row in rows if not row["rule_columns"]]
    assert {each.overlap for each in same if each} == {1.0}
    assert all(abs(each.shift) < 1e-6 for each in same if each)
    differ = [changed(row, Replayer(other)) for row in rows]
    assert min(each.overlap for each in differ if each) < 1
    assert any(abs(each.shift) > 1e-6 for each in differ if each)
    assert changed({**rows[0], "recorded": []}, Replayer(release)) is None
