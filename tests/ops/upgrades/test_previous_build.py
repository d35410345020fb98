"""This build on files and messages that the previous one wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.builders.tiny_home import VIEWER, WATCHED
from tests.ops.upgrades.previous_home import unpack_previous
from vireo.ops.upgrades.documents import unknown_fields
from vireo.ops.upgrades.formats import Build
from vireo.ops.upgrades.held import Held, Part, verdicts
from vireo.ops.upgrades.homes import home_files, online_stores
from vireo.ops.upgrades.previous import PREVIOUS
from vireo.ops.upgrades.stored_releases import held_manifest
from vireo.ops.upgrades.this_build import RELEASE, SCHEMA, this_build
from vireo.server.candidate.release import CandidateRelease
from vireo.server.consumer.apply import apply, read_batch
from vireo.server.consumer.rows import OnlineRows
from vireo.server.event_log.log import Entry
from vireo.server.features.activity import EventRules
from vireo.server.features.keys import video_keys
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.release import GatewayRelease
from vireo.server.home import Home
from vireo.server.ranking.release import RankingRelease
from vireo.server.releases.channel_document import ChannelDocument, parse_record
from vireo.server.releases.manifest import ReleaseError
from vireo.training.data.dataset import LogPositions, describe_dataset, load_dataset
from vireo.v1 import event_pb2, log_pb2


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return unpack_previous(tmp_path)


def test_its_release_is_refused_as_it_has_no_attributes(home: Home) -> None:
    """As docs/upgrades.md says: pods and gateways keep what they serve until one is trained."""
    folder = home.staged_release("tiny")
    with pytest.raises(ReleaseError, match=r"attributes\.json: can't be read"):
        CandidateRelease.load(folder)
    with pytest.raises(ReleaseError, match="attributes"):
        GatewayRelease.load(folder, home.root / "features", 5.0)
    assert RankingRelease.load(folder).manifest.release_id == "tiny-1"


def test_its_rows_are_read_and_kept_up_to_date_with_the_events_that_it_recorded(home: Home) -> None:
    repo = home.features("tiny")
    entry = Entry(1, "0", (home.root / "messages/events.0").read_bytes())
    rows = OnlineRows(repo, 5.0)
    batch = read_batch([entry], EventRules.load(repo))
    apply(rows, batch)
    rows.write_position(0, batch.position)
    rows.close()
    assert not batch.dead
    viewer = asyncio.run(FeatureReader(repo, 5.0).read(VIEWER, 5.0))
    assert set(viewer.watched_keys) == set(video_keys(WATCHED))
    assert list(viewer.hidden_keys) == list(video_keys(["video-3"]))


def test_its_channel_and_its_history_are_read(home: Home) -> None:
    objects = home.root / "objects/channels"
    body = (objects / "production.json").read_bytes()
    document = ChannelDocument.parse(body, "etag", "production")
    assert document.pointer is not None
    assert document.pointer.release_id == "tiny-1"
    assert document.pending is not None
    assert document.pending.release_id == "tiny-2"
    record = (objects / "history/production/00000001.json").read_bytes()
    assert parse_record(record, "1") == document.pointer


def test_its_data_set_is_read_and_what_it_left_in_a_home_is_found_readable(home: Home) -> None:
    assert len(load_dataset(home, "tiny").videos) == 40
    assert describe_dataset(home, "tiny").log_positions == LogPositions()
    parts = (home_files(home), online_stores(home))
    assert not any(part.away for part in parts)
    found = verdicts(parts, this_build(), Build.read(PREVIOUS))
    assert {each.format for each in found} == {
        *(RELEASE, SCHEMA, "stack state", "data set", "features", "event rules", "online store")
    }
    assert [each for each in found if each.problem or each.ignored or each.other_problem] == []


def test_messages_have_no_field_that_this_build_does_not_know(home: Home) -> None:
    messages = home.root / "messages"
    for name, message in (
        ("events.0", log_pb2.RecordedEvents()),
        ("dead.0", log_pb2.DeadEvents()),
        ("catalog.1", log_pb2.CatalogChange()),
        ("state.trending.0", log_pb2.Trending()),
        ("state.progress.0", log_pb2.ConsumerProgress()),
    ):
        message.ParseFromString((messages / name).read_bytes())
        assert message.ByteSize(), name
        # Where what is trending was counted up to: without it the consumer counts anew.
        expected = ["1"] if name == "state.trending.0" else []
        assert list(unknown_fields(message)) == expected, name


def test_fields_of_a_newer_build_are_told_by_their_number() -> None:
    # Field 900 is nobody's: its tag and a 1.
    newer = event_pb2.Event(event_id="e").SerializeToString() + bytes([0xA0, 0x38, 1])
    recorded = log_pb2.RecordedEvents(events=[event_pb2.Event.FromString(newer)])
    assert list(unknown_fields(recorded)) == ["events.900"]


def test_a_release_of_a_later_format_is_refused_by_its_version(home: Home) -> None:
    path = home.staged_release("tiny") / "manifest.json"
    body = path.read_bytes().replace(b'"format_version": 5', b'"format_version": 6')
    part = Part(name="home", held=tuple(held_manifest("m", body)))
    first = verdicts((part,), this_build(), Build.read(PREVIOUS))[0]
    assert first.problem.startswith("format_version is 6, this build serves 5")
    assert first.other_problem == "version 6, it reads 5"
    assert "train again" in first.effect


def test_a_release_with_features_that_this_build_lacks_is_refused_by_their_names(
    home: Home,
) -> None:
    path = home.staged_release("tiny") / "manifest.json"
    body = path.read_bytes().replace(b'"log_age_days"', b'"log_age_years"')
    part = Part(name="home", held=tuple(held_manifest("m", body)))
    [release, schema] = verdicts((part,), this_build(), Build.read(PREVIOUS))
    assert not release.problem
    assert "video_features names log_age_years, which this build lacks" in schema.problem
    assert "video_features.log_age_years" in schema.other_problem


def test_a_field_that_only_a_newer_build_knows_is_told_where_it_is_ignored() -> None:
    held = Held(where="c", format="channel", fields=("release_id", "updated_at", "updated_by", "x"))
    part = Part(name="S3", held=(held,))
    [found] = verdicts((part,), this_build(), Build.read(PREVIOUS))
    assert (found.problem, found.ignored) == ("", ("x",))
