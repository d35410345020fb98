from __future__ import annotations

import numpy as np
import pytest

from vireo.server.gateway.query import BUCKETS, viewer_bucket


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_share_of_the_buckets_holds_that_share_of_the_viewers(share: float) -> None:
    buckets = np.array([viewer_bucket(f"viewer-{number}") for number in range(10_000)])
    assert buckets.min() >= 0
    assert buckets.max() < BUCKETS
    assert (buckets < share * BUCKETS).mean() == pytest.approx(share, abs=0.01)


def test_a_viewer_stays_in_its_bucket_for_ever() -> None:
    # Were these to change, every viewer of a running canary could change sides.
    found = [viewer_bucket(name) for name in ("1", "viewer-1", "a/b é?")]
    assert found == [9311, 6410, 2542]
