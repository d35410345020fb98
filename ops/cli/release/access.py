"""Access to the release store of `vireo release`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.server.recommend.filters.declared import Declared
    from vireo.server.releases.manifest import Manifest
    from vireo.server.releases.store import ReleaseStore


@contextmanager
def open_store(needed_bytes: int = 0) -> Iterator[ReleaseStore]:
    """Yield the release store: that of the settings or the running stack, else a temporary one.

    Raises:
        VireoError: there is none, or too little disk space for `needed_bytes` more.
    """
    from vireo.ops.stack.s3 import embedded_s3, external_endpoint
    from vireo.ops.stack.settings import StackSettings
    from vireo.server.releases.s3 import S3Settings
    from vireo.server.releases.store import ReleaseStore

    if external_endpoint() is not None:
        yield ReleaseStore(S3Settings.load())
        return
    settings = StackSettings.load()
    _check_space(settings.home, needed_bytes)
    with embedded_s3(settings) as server:
        yield ReleaseStore(server)


def declared_by(store: ReleaseStore, manifest: Manifest) -> Declared:
    """Return the attributes that a release in the store declares.

    Raises:
        ReleaseError: they can't be read.
        StoreError: the store can't be read.
    """
    from vireo.server.recommend.filters.declared import Declared
    from vireo.server.releases.layout import ATTRIBUTES

    text = b"".join(store.read(manifest.release_id, ATTRIBUTES))
    return Declared.parse(text, f"{manifest.release_id}/{ATTRIBUTES}")


def _check_space(folder: Path, needed_bytes: int) -> None:
    """Raise VireoError unless the embedded S3 server can store `needed_bytes` more."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    # The server refuses writes once less than 1% of the disk is free.
    free = disk.free - disk.total // 100
    if free < needed_bytes:
        raise VireoError(
            f"too little disk space for the S3 server in {folder}: the release needs "
            f"{needed_bytes / 1e6:,.0f} MB and {max(free, 0) / 1e6:,.0f} MB are left; free some "
            "space, or set VIREO_HOME to another disk"
        )
