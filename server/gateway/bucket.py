"""Which side of a canary a viewer is on."""

from __future__ import annotations

import xxhash

BUCKETS = 10_000
BUCKET_HEADER = "x-vireo-bucket"
"""Metadata key of a bucket on the inner hops: routes hold the share of the canary against it."""
_SEED = 20_001
"""Apart from the hash of video keys: the two must have nothing to do with each other."""


def viewer_bucket(viewer_id: str) -> int:
    """From 0 to BUCKETS - 1, alike likely, by the viewer's id alone: the same for ever."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode(), seed=_SEED) % BUCKETS
