"""The drill: all that a stack has is deleted and restored from a backup made while it served."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.builders.commands import run_vireo as vireo
from tests.builders.releases import build_release
from tests.builders.s3 import running_s3
from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from tests.builders.tiny_home import DATASET, build_watches
from tests.builders.waiting import wait_until
from vireo.server.consumer import apply
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows, read_viewer
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.home import Home
from vireo.training.data.dataset import load_dataset
from vireo.v1.viewer_pb2 import ViewerFeatures
from vireo_client import AsyncClient, Client, Event, EventKind, Video, VireoError

pytestmark = pytest.mark.integration

EVERYBODY = [f"viewer-{number}" for number in range(150)]
ERASED_BEFORE, ERASED_AFTER, HID_LONG_AGO = EVERYBODY[:3]
TAKEN_DOWN = ["video-30", "video-31"]
RULES = """[[pins]]
name = "premiere"
video_id = "video-33"
position = 3

[[new_videos]]
name = "by-score"
share = 0.0
"""
"""With shares of new videos, slates would differ from request to request."""


def build_home(root: Path) -> Home:
    """A home whose viewers have watched two to six of forty videos."""
    home, start = Home(root), datetime(2024, 1, 1, tzinfo=UTC)
    watches = [
        (viewer, f"video-{(number * 7 + step * 3) % 28}", start + timedelta(hours=number + step))
        for number, viewer in enumerate(EVERYBODY)
        for step in range(2 + number % 5)
    ]
    build_watches(home, watches, ["plan=free"], [5.0] * len(watches))
    build_release(home.staged_release(DATASET), release_id="tiny-1")
    return home


def hide(repo: Path, viewer: str, video: str) -> None:
    """As a consumer once did: neither the log nor the data set has it any more."""
    rows = open_rows(repo, 5)
    times = {video_key(video): 1_700_000_000}
    apply.keep(rows, [(viewer, ViewerRow(hides=times, followed=times), True)])
    rows.close()


async def slates(edge: str) -> dict[str, list[str]]:
    """Everybody's slate, asked for by eight at a time, again if a busy machine is late."""
    found, left = dict[str, list[str]](), iter(EVERYBODY)

    async def ask(client: AsyncClient) -> None:
        for viewer in left:
            while viewer not in found:
                with suppress(VireoError):
                    slate = await client.recommend(viewer, page_size=10)
                    if not slate.degradations:
                        found[viewer] = [item.video_id for item in slate.items]

    async with AsyncClient(edge, timeout=9) as client, asyncio.timeout(600):
        await asyncio.gather(*(ask(client) for _ in range(8)))
    return found


def live(stack: Stack) -> None:
    """Viewers watch and hide, videos are taken down and one is new, while all serves."""
    repo = stack.home.features(DATASET)
    with Client(stack.edge) as client:
        events = [
            Event(
                EventKind.HIDE if number % 3 == 0 else EventKind.PLAY,
                viewer,
                f"video-{28 + number % 2}",
            )
            for number, viewer in enumerate(EVERYBODY[:100])
        ]
        client.record_events(events)
        client.upsert_videos([Video("newcomer", "token-1")])
        client.remove_videos(TAKEN_DOWN)
    last = EVERYBODY[99]
    wait_until(lambda: len(read_viewer(repo, last).hidden_keys) == 1)


async def test_all_that_is_lost_comes_back_but_for_viewers_who_were_erased(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    home = build_home(tmp_path / "home")
    hide(home.features(DATASET), HID_LONG_AGO, "video-35")
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    with running_s3(tmp_path / "backups") as bucket:
        settings = {
            "VIREO_BACKUP_S3_ENDPOINT": bucket.endpoint,
            "VIREO_BACKUP_S3_ACCESS_KEY": bucket.access_key,
            "VIREO_BACKUP_S3_SECRET_KEY": bucket.secret_key.get_secret_value(),
            "VIREO_RULES": str(rules),
            **ONE_POD_EACH,
        }
        publish = f"vireo certificates make && vireo release publish --data {DATASET}"
        with running_stack(home.root, prepare=publish, settings=settings) as stack:
            live(stack)
            vireo(stack.environment, "viewers", "erase", ERASED_BEFORE, "--yes")
            vireo(stack.environment, "backup")
            vireo(stack.environment, "viewers", "erase", ERASED_AFTER, "--yes")
            before = await slates(stack.edge)
        secrets = secret_files(home)
        shutil.rmtree(home.root)
        rules.unlink()
        lost = time.monotonic()
        said = vireo(stack.environment, "restore", "--dry-run").stdout
        assert "features to build: tiny" in said
        assert "viewers to erase again: 1" in said
        assert not home.data(DATASET).exists()
        assert not home.security.exists()
        vireo(stack.environment, "restore")
        restored_after = time.monotonic() - lost
        with running_stack(home.root, settings=stack.environment) as restored:
            record_property("restored after, seconds", restored_after)
            record_property("served after, seconds", time.monotonic() - lost)
            after = await slates(restored.edge)
        # Erased viewers are strangers, whose slates follow what is trending, and so the time.
        erased = {ERASED_BEFORE, ERASED_AFTER}
        assert [each for each in before if each not in erased and before[each] != after[each]] == []
        assert after[ERASED_BEFORE] == after[ERASED_AFTER]
        assert not any(set(slate) & {*TAKEN_DOWN} for slate in after.values())
        assert any("newcomer" in slate for slate in after.values())
        assert "video-35" not in after[HID_LONG_AGO]
        assert rules.read_text() == RULES
        assert all(slate[2] == "video-33" for slate in after.values())
        for viewer in (ERASED_BEFORE, ERASED_AFTER):
            assert read_viewer(home.features(DATASET), viewer) == ViewerFeatures()
            assert viewer not in set(load_dataset(home, DATASET).interactions["viewer_id"])
        assert secret_files(home) == secrets


def secret_files(home: Home) -> dict[str, tuple[int, str]]:
    """Mode and content of the files of keys, by their paths."""
    paths = [*home.security.rglob("*.key")]
    assert len(paths) > 2
    return {
        str(each.relative_to(home.root)): (each.stat().st_mode & 0o777, each.read_text())
        for each in paths
    }
