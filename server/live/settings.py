"""Settings of what pods, gateways and consumers follow of the log."""

from __future__ import annotations

from pydantic import Field

from vireo.server.settings import EnvironmentSettings

TRENDING_HALF_LIFE = 6 * 3600.0
"""Seconds after which a play or like counts half for what is trending, in pods and consumers."""


class LiveSettings(EnvironmentSettings):
    """Read from `VIREO_…` environment variables."""

    live_videos: int = Field(default=200_000, ge=1, le=2_000_000)
    """Maximum upserted videos that a pod keeps beside its release, that a gateway knows to have
    changed, and whose impressions a consumer counts: the newest. Others are counted, and wait for a
    release that has them. Pods and consumers must have the same value."""
