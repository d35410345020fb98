"""Write what a build leaves behind: `python -m tests.ops.upgrades.make_previous FILE`.

Run it in a checkout of the build whose files are wanted, with this file copied into it; it uses
only what that build has. FILE is a tar archive; `previous.tar.gz` beside this file is of the build
before this one.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import Message

from tests.builders.tiny_home import VIEWER, build_tiny_home
from vireo.ops.stack.state import ProcessState, StackState
from vireo.server.home import Home
from vireo.server.releases.channel_document import ChannelPointer, with_note
from vireo.server.releases.markers import Marker
from vireo.v1 import catalog_pb2, event_pb2, log_pb2

AT = datetime(2026, 1, 1, tzinfo=UTC)


def make(root: Path) -> None:
    """Write a home with data, features and a release; objects of S3; and messages of the log."""
    home = build_tiny_home(root)
    _write_objects(root / "objects")
    _write_messages(root / "messages")
    _write_state(home)


def _write_objects(folder: Path) -> None:
    pointer = ChannelPointer(
        release_id="tiny-1", updated_at=AT, updated_by="somebody", reason="first", revision=1
    )
    body = pointer.model_dump_json(indent=2).encode()
    claim = Marker(marker="uploading", by="somebody", token="t" * 32, digest="0" * 64).body()
    for place, content in (
        ("channels/production.json", with_note(body, "tiny-2")),
        ("channels/history/production/00000001.json", body),
        ("releases/tiny-2/manifest.json", claim),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)


def _write_messages(folder: Path) -> None:
    recorded = log_pb2.RecordedEvents(events=[_event(kind) for kind in _kinds()])
    recorded.received_at.FromDatetime(AT)
    dead = log_pb2.DeadEvents(recorded=recorded.SerializeToString(), reason="why", position=3)
    dead.at.FromDatetime(AT)
    video = catalog_pb2.Video(video_id="new-1", title="New", tags=["Comedy"], creator="ana")
    change = log_pb2.CatalogChange(video=video)
    change.received_at.FromDatetime(AT)
    trends = log_pb2.TrendingVideos(keys=[1, 2], weights=[2.0, 1.0])
    trending = log_pb2.Trending(counted="7", lists=[trends], new_keys=[3], new_impressions=[4])
    trending.at.FromDatetime(AT)
    progress = log_pb2.ConsumerProgress(partition=0, position=7, pending=1)
    progress.oldest_pending.FromDatetime(AT)
    messages: dict[str, Message] = {
        "events.0": recorded,
        "dead.0": dead,
        "catalog.1": change,
        "state.trending.0": trending,
        "state.progress.0": progress,
    }
    folder.mkdir()
    for name, message in messages.items():
        (folder / name).write_bytes(message.SerializeToString())


def _kinds() -> list[int]:
    return [number for number in event_pb2.EventKind.values() if number]


def _event(kind: int) -> event_pb2.Event:
    event = event_pb2.Event(
        event_id=f"event-{kind}",
        viewer_id=VIEWER,
        kind=kind,  # type: ignore[arg-type]
        video_id="video-3",
        request_id="request",
        position=3,
        locale="de-CH",
        creator="ana",
    )
    event.time.FromDatetime(AT)
    if kind == event_pb2.EVENT_KIND_PLAY:
        event.watched_fraction = 0.5
    return event


def _write_state(home: Home) -> None:
    gateway = ProcessState(
        name="gateway-1", port=8110, log=Path("gateway-1.log"), state="healthy", pid=2
    )
    StackState(
        pid=1,
        started_at=AT,
        ready=True,
        channel="production",
        edge="127.0.0.1:8080",
        admin_port=0,
        processes=(gateway,),
    ).write(home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch) / "home")
        with tarfile.open(sys.argv[1], "w:gz") as archive:
            archive.add(Path(scratch) / "home", arcname="home")
