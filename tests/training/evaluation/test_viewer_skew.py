"""Features that slates were answered with are those computed offline; faults are named."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.served_site import VIEWERS, Site, build_site
from vireo.server.consumer.archived_rows import EVENT_ROWS
from vireo.server.features.online_store import open_rows
from vireo.training.evaluation.replay import Replayer, replayed
from vireo.training.evaluation.viewer_skew import (
    OfflineViewers,
    not_comparable,
    viewer_difference,
)
from vireo.v1.recommendation_pb2 import RecommendRequest, RequestProfile
from vireo.v1.viewer_pb2 import ViewerFeatures


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build_site(tmp_path_factory.mktemp("site"))


def _found(site: Site, row: dict[str, Any]) -> str:
    """The feature that differs; empty if none does."""
    if difference := viewer_difference(row, site.offline()):
        assert difference.recorded != difference.computed
        return difference.value
    replay = replayed(row, {"tiny-1": Replayer(site.release)})
    assert not replay.skipped
    return replay.difference.value if replay.difference else ""


def test_what_is_computed_is_what_the_online_store_has(site: Site) -> None:
    offline = site.offline()
    with closing(open_rows(site.repo, 5.0)) as rows:
        for viewer in VIEWERS:
            stored = rows.features(viewer)
            stored.ClearField("updated_at")
            assert offline.after(viewer, 0) == stored


def test_slates_without_a_fault_have_no_difference(site: Site) -> None:
    assert {_found(site, site.row(each)) for each in VIEWERS} == {""}


def test_events_of_the_last_seconds_may_be_in_the_features_or_not(site: Site) -> None:
    just_after = site.played_at + timedelta(seconds=61 * 2 + 5)
    for played, expected in ((3, ""), (2, ""), (1, "staleness")):
        row = site.row(VIEWERS[0], played=played, answered_at=just_after)
        row["asked_at"] = int(just_after.timestamp())
        found = viewer_difference(row, site.offline())
        assert (found.value if found else "") == expected


def test_slates_that_have_other_features_for_a_reason_arent_compared(site: Site) -> None:
    offline, viewer = site.offline(), VIEWERS[0]
    assert not_comparable(site.row(viewer), offline) == ""
    profile = RecommendRequest(profile=RequestProfile(attributes=["age=40"])).SerializeToString()
    before, later = datetime(2024, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1)
    for changes, reason in (
        ({"degradations": ["features_stale"]}, "it says so: features_stale"),
        ({"retrieval": b""}, "it has no candidates"),
        ({"request": profile}, "its request brought a profile"),
        ({"answered_at": before}, "the features were built anew since then"),
        ({"answered_at": later}, "events before it may not be archived yet"),
    ):
        assert not_comparable({**site.row(viewer), **changes}, offline) == reason


def test_viewers_who_may_be_forgotten_and_sites_without_events_arent_compared(site: Site) -> None:
    row = site.row(VIEWERS[0])
    brief = OfflineViewers(site.repo, [site.events], VIEWERS, expiry=60)
    assert not_comparable(row, brief) == "not all of its viewer is remembered"
    without = OfflineViewers(site.repo, [], VIEWERS)
    assert not_comparable(row, without) == "events before it may not be archived yet"


def test_a_hide_that_only_the_online_store_keeps_is_no_difference(site: Site) -> None:
    viewer = site.offline().after(VIEWERS[0], 3)
    kept = {viewer.history_keys[2]: 1_700_000_000}
    row = site.row(VIEWERS[0], lambda it: it.CopyFrom(_asked(site, kept, it.asked_at)))
    assert viewer_difference(row, site.offline()) is None


def _asked(site: Site, hides: dict[int, int], asked_at: int) -> ViewerFeatures:
    made = site.offline().after(VIEWERS[0], 3, hides)
    made.asked_at = asked_at
    return made


def test_events_that_a_consumer_cant_apply_arent_in_the_features(site: Site) -> None:
    columns = pq.read_table(site.events).to_pylist()
    broken = [{**columns[0], "video_id": "", "event_id": "a"}, {**columns[0], "kind": "99"}]
    file = site.events.with_name("broken.parquet")
    pq.write_table(pa.Table.from_pylist([*columns, *broken], EVENT_ROWS.schema), file)
    viewers = OfflineViewers(site.repo, [file], VIEWERS)
    assert viewers.known_by(VIEWERS[0], datetime.now(UTC).timestamp()) == 3


def _unit(viewer: ViewerFeatures) -> None:
    viewer.history_times[:] = [1000 * at for at in viewer.history_times]


def _order(viewer: ViewerFeatures) -> None:
    viewer.history_keys[:] = viewer.history_keys[::-1]


def _default(viewer: ViewerFeatures) -> None:
    viewer.like_count = 0


def _clock(viewer: ViewerFeatures) -> None:
    viewer.asked_at -= 7200


def _vocabulary(viewer: ViewerFeatures) -> None:
    viewer.attributes[1] = viewer.attributes[1].replace("=", "-")


def _clipping(viewer: ViewerFeatures) -> None:
    for column in (viewer.history_keys, viewer.history_times):
        column[:] = column[-2:]


def _dtype(viewer: ViewerFeatures) -> None:
    viewer.history_times[:] = np.array(viewer.history_times, np.float32).astype(int).tolist()


def _off_by_one(viewer: ViewerFeatures) -> None:
    del viewer.history_keys[-1], viewer.history_times[-1]


@pytest.mark.parametrize(
    ("fault", "feature"),
    [
        (_unit, "history_times[0]"),
        (_order, "history_keys[0]"),
        (_default, "like_count"),
        (_clock, "asked_at"),
        (_vocabulary, "attributes[1]"),
        (_clipping, "history_keys[0]"),
        (_dtype, "history_times[0]"),
        (_off_by_one, "history_keys"),
    ],
)
def test_a_fault_in_a_viewers_features_is_named(
    site: Site, fault: Callable[[ViewerFeatures], None], feature: str
) -> None:
    assert {_found(site, site.row(each, fault)) for each in VIEWERS[:10]} == {feature}


def test_rows_that_the_consumer_didnt_keep_up_to_date_are_stale(site: Site) -> None:
    assert {_found(site, site.row(each, played=1)) for each in VIEWERS[:10]} == {"staleness"}


def test_a_missing_source_and_a_score_of_another_unit_are_named(site: Site) -> None:
    row = site.row(VIEWERS[0])
    masks = row["candidate_sources"]
    place = next(place for place, mask in enumerate(masks) if mask & 4)
    row["candidate_sources"] = [mask & ~4 for mask in masks]
    assert _found(site, row) == f"sources {place + 1}"
    row = site.row(VIEWERS[0])
    row["retrieval_ease"] = [100 * each + 1 for each in row["retrieval_ease"]]
    assert _found(site, row).startswith("ease of ")
