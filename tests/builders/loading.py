"""Runs a release loader in the background, as a pod does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builders.releases import build_release
from tests.builders.waiting import until
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore


def loader_of(
    pod: Pod[Any], store: ReleaseStore, cache: Path, channel: str, **changes: Any
) -> ReleaseLoader[Any]:
    """A loader of this kind of pod that looks at its channel often, with other arguments."""
    arguments: dict[str, Any] = {
        "channel": channel,
        "pod": pod.kind,
        "files": pod.files,
        "build": pod.build,
        "replay": pod.replay,
        "poll_seconds": 0.02,
        **changes,
    }
    return ReleaseLoader(store, ReleaseCache(cache), **arguments)


@asynccontextmanager
async def running(loader: ReleaseLoader[Any]) -> AsyncIterator[list[str]]:
    """Run the loader; yield a list that gets the first release once it is announced."""
    announced: list[str] = []

    async def on_first() -> None:
        assert loader.serving is not None
        announced.append(loader.serving.release_id)

    task = asyncio.create_task(loader.run(on_first))
    try:
        yield announced
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def serves(loader: ReleaseLoader[Any], release_id: str) -> bool:
    """Whether it serves this release."""
    return loader.serving is not None and loader.serving.release_id == release_id


@dataclass(frozen=True)
class Followed:
    """A channel of a test's own, its releases, and a cache for the pods that follow it."""

    name: str
    store: ReleaseStore
    folder: Path

    @property
    def cache(self) -> ReleaseCache:
        return ReleaseCache(self.folder / "cache")

    def publish(self, *letters: str, seed: int = 0) -> list[str]:
        """Publish a release for each letter; return their ids."""
        ids = [f"{self.name}-{letter}" for letter in letters]
        for release_id in ids:
            folder = self.folder / "staged" / release_id
            self.store.publish(build_release(folder, release_id=release_id, seed=seed))
        return ids

    def point(self, release_id: str) -> None:
        """Point the channel at a release."""
        before = self.store.read_channel(self.name)
        self.store.change_channel(self.name, Change(release_id), before)

    async def serve(self, loader: ReleaseLoader[Any], release_id: str) -> None:
        """Point the channel at a release, and return once the loader serves it."""
        self.point(release_id)
        await until(lambda: serves(loader, release_id))

    def loader(
        self, through: S3Settings | None = None, pod: Pod[Any] = RANKING_POD, **changes: Any
    ) -> ReleaseLoader[Any]:
        """A loader that follows the channel, `through` these settings of S3 if given."""
        store = ReleaseStore(through) if through else self.store
        return loader_of(pod, store, self.cache.root, self.name, **changes)
