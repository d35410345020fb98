"""Which features to keep up to date: those of the data set of the release that gateways serve."""

from __future__ import annotations

import asyncio

import structlog

from server.consumer.settings import ConsumerSettings
from server.pod.announcements import Announcements
from server.releases.manifest import ReleaseError
from server.releases.store import ReleaseStore
from server.releases.store_errors import StoreError

log = structlog.get_logger()


class ServedDataset:
    """Follows a channel: the data set that its release was trained on."""

    def __init__(self, settings: ConsumerSettings) -> None:
        """Read nothing yet.

        Raises:
            VireoError: a TLS file can't be read.
        """
        self._store = ReleaseStore(settings.s3.hasty())
        self._channel, self._poll_seconds = settings.channel, settings.poll_seconds
        control = settings.control_target
        self._announcements = (
            Announcements(control, settings.tls, settings.channel) if control else None
        )
        self._release_id = ""
        self._problem = ""
        self.name = ""
        """The data set; empty until a release is known."""
        self._changed = asyncio.Event()

    async def await_change(self) -> None:
        """Return once the name has changed since this returned last."""
        await self._changed.wait()
        self._changed.clear()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._read()
                self._problem = ""
            except (StoreError, ReleaseError) as error:
                # Until the store is back, the data set is the one before.
                if str(error) != self._problem:
                    log.warning("the channel can't be read", reason=str(error))
                self._problem = str(error)
            if self._announcements is None or self._problem or not self._release_id:
                await asyncio.sleep(self._poll_seconds)
            else:
                await self._announcements.wait(self._release_id, self._poll_seconds)

    async def _read(self) -> None:
        channel = await asyncio.to_thread(self._store.read_channel, self._channel)
        if channel is None or channel.release_id == self._release_id:
            return
        # Gateways of another build may serve a release that this one couldn't.
        dataset = await asyncio.to_thread(self._store.dataset, channel.release_id)
        self._release_id = channel.release_id
        if dataset != self.name:
            log.info("features to follow", dataset=dataset, release=channel.release_id)
            self.name = dataset
            self._changed.set()
