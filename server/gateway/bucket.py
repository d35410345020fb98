"""Which side of a canary a viewer is on."""

from __future__ import annotations

import xxhash

BUCKETS = 10_000
BUCKET_HEADER = "x-vireo-bucket"
"""Metadata key of a bucket on the inner hops; routes compare it with the canary's share."""
_SEED = 20_001
"""Makes buckets independent of video keys, which are the same hash."""


def viewer_bucket(viewer_id: str) -> int:
    """Return the viewer's bucket, uniform in [0, BUCKETS); it depends on the id alone."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode(), seed=_SEED) % BUCKETS
