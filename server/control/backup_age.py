"""The age of the last backup, by its marker in the bucket of releases."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime

import structlog
from prometheus_client import Gauge

from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import BackupSettings

log = structlog.get_logger()

MARKER = "backups/latest"
"""Object of the bucket of releases: when the last complete backup began, ISO 8601."""
BEGAN = Gauge(
    "vireo_last_backup_timestamp_seconds",
    "When the last complete backup began: all before is in it. NaN if there is none, 0 if there "
    "should be.",
)
BEGAN.set(math.nan)
_MAX_BYTES = 64
_POLL_SECONDS = 60.0


async def follow_backups(bucket: Bucket) -> None:
    """Export the marker until cancelled; while it can't be read, its last value stays.

    Without any it is 0 if backups are set up, so that the alert fires.
    """
    none = 0.0 if BackupSettings.named() else math.nan
    while True:
        try:
            found = await asyncio.to_thread(bucket.get, MARKER, _MAX_BYTES)
            BEGAN.set(datetime.fromisoformat(found[0].decode()).timestamp() if found else none)
        except (VireoError, ValueError) as error:
            log.warning("the age of the last backup isn't known", reason=str(error))
        await asyncio.sleep(_POLL_SECONDS)
