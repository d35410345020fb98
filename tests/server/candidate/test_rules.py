"""What candidate pods answer for the site's rules, of the release's videos and of new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders.attributes import labels_of
from tests.builders.catalogue import followed, upserted
from tests.builders.filters import condition, message
from tests.builders.releases import CREATORS, video_ids
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_key
from vireo.server.recommend.filters.expression import BadFilterError
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.recommend.retrieval.rules import retrieval_rules, rule_columns
from vireo.v1 import rules_pb2 as pb

CATS = message(condition("tag", any_of=["cat"]))


@pytest.fixture(scope="module")
def release(release_folder: Path) -> CandidateRelease:
    live = followed(
        upserted(1, "new-0", title="New", tags=["cat", "owl"]),
        upserted(2, "video-7", title="Changed", tags=["owl"]),
    )
    return CandidateRelease.load(release_folder, live=live)


def answer(release: CandidateRelease, rules: pb.SlateRules) -> tuple[list[str], pb.RuleColumns]:
    """Ids of the candidates, and the columns of them."""
    decoded = retrieval_rules(rules, release.declared)
    query = CandidateQuery(viewer_of_rows(1, 2), 100, pinned_keys=decoded.pinned_keys)
    found = CandidatePipeline(release, fail_open=False).retrieve(query)
    names = [release.video_id(row) for row in found.rows.tolist()]
    return names, rule_columns(decoded, release, found)


def tags(name: str) -> set[str]:
    known = {"new-0": {"tag=cat", "tag=owl"}, "video-7": {"tag=owl"}}
    if name in known:
        return known[name]
    labels = labels_of(video_ids(40).index(name), CREATORS)
    return {each for each in labels if each.startswith("tag=")}


def test_factors_are_by_the_labels_that_videos_have_now(release: CandidateRelease) -> None:
    boosts = [pb.Boost(filter=CATS, factor=4), pb.Boost(filter=CATS, factor=50)]
    names, columns = answer(release, pb.SlateRules(boosts=boosts[:1], counts=True))
    assert "new-0" in names
    assert list(columns.factors) == [4 if "tag=cat" in tags(name) else 1 for name in names]
    assert list(columns.boosted) == [sum("tag=cat" in tags(name) for name in names)]
    _, columns = answer(release, pb.SlateRules(boosts=boosts))
    assert {*columns.factors} == {1, 100}  # the bound of the product
    nothing = message(condition("tag", any_of=["none such"]))
    rules = pb.SlateRules(boosts=[pb.Boost(filter=nothing, factor=2)])
    assert not answer(release, rules)[1].factors


@pytest.mark.parametrize("values", [[], ["owl", "none such"]])
def test_labels_are_those_that_videos_have_now(
    release: CandidateRelease, values: list[str]
) -> None:
    rules = pb.SlateRules(caps=[pb.Cap(attribute="tag", values=values, max=2)])
    names, columns = answer(release, rules)
    [column] = columns.labels
    numbers = iter(column.labels)
    meant: dict[int, set[str]] = {}
    for name, count in zip(names, column.counts, strict=True):
        counted = {each for each in tags(name) if not values or each == "tag=owl"}
        assert count == len(counted)
        for _ in range(count):
            number = next(numbers)
            meant[number] = meant.get(number, counted) & counted
    assert all(meant.values())  # a number means the same label everywhere
    assert len(meant) == len({each for name in names for each in tags(name)}) or values


def test_what_is_pinned_is_found_if_the_query_allows_it(release: CandidateRelease) -> None:
    keys = [video_key(name) for name in ("new-0", "video-39", "video-1", "nothing")]
    names, _ = answer(release, pb.SlateRules(pins=[pb.Pin(key=key, position=1) for key in keys]))
    assert {"new-0", "video-39"} <= {*names}
    assert "video-1" not in names  # it was watched
    assert len({*names}) == len(names)


def test_more_new_videos_may_be_pinned_than_candidates_are_asked_for(release_folder: Path) -> None:
    names = [f"new-{number}" for number in range(4)]
    live = followed(*(upserted(place, name) for place, name in enumerate(names, start=1)))
    release = CandidateRelease.load(release_folder, live=live)
    pinned = np.array([video_key(name) for name in names], np.int64)
    query = CandidateQuery(viewer_of_rows(1, 2), 3, pinned_keys=pinned)
    found = CandidatePipeline(release, fail_open=False).retrieve(query)
    assert {release.video_id(row) for row in found.rows.tolist()} < {*names}
    assert len(found) == 3


def test_a_filter_that_the_release_can_not_apply_is_refused(release: CandidateRelease) -> None:
    unknown = message(condition("dialect", any_of=["a"]))
    with pytest.raises(BadFilterError, match="dialect"):
        retrieval_rules(pb.SlateRules(filters=[unknown]), release.declared)
    caps = pb.SlateRules(caps=[pb.Cap(attribute="dialect", max=1)])
    names, columns = answer(release, caps)
    assert list(columns.labels[0].counts) == [0] * len(names)
