"""What the settings of a pod make of each other."""

from __future__ import annotations

import pytest

from tests.builders.s3 import unreachable_s3
from vireo.server.pod.pod import PodSettings


@pytest.mark.parametrize(
    ("channel", "seconds"), [("production", 60.0), ("canary", 10.0), ("shadow", 10.0)]
)
def test_a_pod_keeps_the_release_before_for_as_long_as_its_channel_needs(
    channel: str, seconds: float
) -> None:
    settings = PodSettings(port=0, s3=unreachable_s3(), channel=channel)
    assert settings.previous_is_kept == seconds
