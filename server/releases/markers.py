"""The object `releases/<id>/manifest.json`, which says whether a release is in the store.

It goes from absent to *uploading*, to the manifest itself, to *removing*, and to absent again. Each
step is a compare-and-swap by a unique token, so that of an upload, a removal and another upload of
the same id at most one proceeds, and a process that was overtaken finds out at its next step:

- `publish` claims the id, uploads, and replaces its own claim by the manifest. Files can't be
  written conditionally, so it reads its claim again before each one: if it was overtaken, it writes
  at most the PARALLEL files that it had begun, with the content that their manifest describes
  unless another release took the id. The claim of a dead process is taken over by the next publish
  of the same release, or removed by `gc`.
- `gc` replaces what it saw when it planned by a tombstone that keeps it, then reads what channels
  need and what files there are. If the release is needed, or a file is newer than the plan, it
  restores what was there; else it deletes the files and its own tombstone. The tombstone of a dead
  process is taken over once ABANDONED. Files can't be deleted conditionally, so a `gc` that is
  delayed for LEASE_SECONDS stops, long before that.
- `promote` and `rollback` note in the channel what it will name, then read this object, then write
  the name. They see a tombstone that was written before that read. A `gc` that writes it later
  reads the channel later still, finds the note or the name, and restores the manifest before it
  deletes anything. Meanwhile pods read the manifest from the tombstone, and all files are there.
"""

from __future__ import annotations

import uuid
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.releases.bucket import Bucket
from vireo.server.releases.channels import this_user
from vireo.server.releases.fields import parse_json
from vireo.server.releases.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES

ABANDONED = timedelta(hours=1)
"""Age after which the removal of a tombstone counts as abandoned."""
LEASE_SECONDS = 900.0
"""How long after its tombstone a `gc` may delete files: far less than ABANDONED, since S3's clock
may differ from this machine's, and requests take time."""
_MAX_BYTES = 2 * MAX_MANIFEST_BYTES


class Marker(BaseModel):
    """What stands in a manifest's place while its release is uploaded or removed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    marker: Literal["uploading", "removing"]
    by: str = Field(max_length=256)
    token: str = Field(default_factory=lambda: uuid.uuid4().hex, max_length=64)
    """Unique token of its writer."""
    digest: str = Field(default="", max_length=64)
    """For an upload: SHA-256 of the manifest to come."""
    replaced: str | None = Field(default=None, max_length=_MAX_BYTES)
    """For a removal: what was here before, in Base64; None if it can't have been a manifest."""

    @staticmethod
    def uploading(digest: str) -> Marker:
        """Return a claim by this user."""
        return Marker(marker="uploading", by=this_user()[:256], digest=digest)

    @staticmethod
    def removing(replaced: bytes | None) -> Marker:
        """Return this user's tombstone; it keeps `replaced` unless larger than any manifest."""
        kept = replaced if replaced is not None and len(replaced) <= MAX_MANIFEST_BYTES else None
        text = None if kept is None else b64encode(kept).decode()
        return Marker(marker="removing", by=this_user()[:256], replaced=text)

    def body(self) -> bytes:
        """Return it as it is stored."""
        return self.model_dump_json(indent=2).encode()

    @property
    def original(self) -> bytes | None:
        """What a tombstone replaced; None if nothing was there."""
        return None if self.replaced is None else b64decode(self.replaced)


@dataclass(frozen=True)
class ManifestObject:
    """What a release's object held when it was read."""

    body: bytes
    """At most as much as `Bucket.get` reads: 2 * MAX_MANIFEST_BYTES + 1."""
    etag: str
    marker: Marker | None
    """None if the object is a manifest, sound or not."""

    @property
    def removal(self) -> Marker | None:
        """The tombstone of a release that is being removed; None for any other."""
        return self.marker if self.marker and self.marker.marker == "removing" else None

    @property
    def before_removal(self) -> bytes | None:
        """The object without a tombstone; None if nothing was there before it."""
        return self.removal.original if self.removal else self.body

    @property
    def manifest(self) -> bytes | None:
        """The manifest, also of a release that is being removed; None while it is uploaded."""
        before = self.before_removal
        return None if before is None or _parsed(before) is not None else before


def manifest_place(release_id: str) -> str:
    """Return the name of the object."""
    return f"releases/{release_id}/{MANIFEST_NAME}"


def read_manifest_object(bucket: Bucket, release_id: str) -> ManifestObject | None:
    """Return what the object holds, or None if it isn't there.

    Raises:
        NotInStoreError: the bucket isn't there.
    """
    found = bucket.get(manifest_place(release_id))
    return None if found is None else ManifestObject(*found, _parsed(found[0]))


def _parsed(body: bytes) -> Marker | None:
    try:
        marker = Marker.model_validate(parse_json(body, _MAX_BYTES))
        marker.original  # noqa: B018 (text that is no Base64 is no marker of ours)
    except (ValidationError, ValueError):
        return None
    return marker
