"""Settings of a consumer process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vireo.server.features.online_store import RedisSettings
from vireo.server.home import Home
from vireo.server.live.settings import LiveSettings
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.settings import RpcSettings


class ConsumerSettings(RpcSettings):
    """What a consumer follows, and how much it does at a time."""

    event_partition: int = Field(default=0, ge=0, le=255)
    """The partition of the events to apply, from 0; one process for each."""
    channel: str = Field(default="production", min_length=1)
    """The channel whose release gateways serve: its data set's features are kept up to date."""
    control_target: str = ""
    """host:port of the control plane, which announces changes of the channel; if empty, or while it
    doesn't answer, the channel is polled."""
    features: Path = Field(default_factory=lambda: Home.current().root / "features")
    """Folder with a Feast repository per data set, by its name."""
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
    """The Redis server that features may be in."""
    viewer_expiry: int = Field(default=365 * 86_400, ge=1)
    """Seconds after which the features of a viewer of whom no play, like or hide was applied are
    deleted from the online store. Redis does so as of the setting of whoever built the features,
    and a build leaves out viewers without an event for as long before its data set's last one."""
    s3: S3Settings = Field(default_factory=S3Settings.load)
    """Where releases are stored."""
    live: LiveSettings = Field(default_factory=LiveSettings.load)
    """Which videos' impressions are counted, and for how long a watch counts as trending."""
