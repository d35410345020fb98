"""Settings of a gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vireo.server.features.online_store import RedisSettings
from vireo.server.home import Home
from vireo.server.pod.pod import PodSettings
from vireo.server.releases.manifest import MAX_CANDIDATES


class GatewaySettings(PodSettings):
    """Addresses of the gateway's dependencies, timeouts and limits."""

    max_message_bytes: int = Field(default=2 << 20, ge=1024)
    """Maximum bytes of a request; the largest valid one, a batch of 10,000 ids of 128 bytes, needs
    two thirds. The edge refuses other requests beyond 1 MiB."""

    candidate_target: str = "127.0.0.1:8101"
    """host:port of the candidate pods, or of the Envoy listener in front of them."""
    ranking_target: str = "127.0.0.1:8102"
    """host:port of the ranking pods, or of the Envoy listener in front of them."""
    features: Path = Field(default_factory=lambda: Home.current().root / "features")
    """Folder with a Feast repository per data set, by its name."""

    candidates: int | None = Field(default=None, ge=1, le=MAX_CANDIDATES)
    """Number of candidates to rank; by default the number that the release's ranker was trained
    with. A larger page raises it to the page's size."""
    max_slates: int = Field(default=6, ge=1)
    """Maximum slates to work on at a time, and maximum calls that wait for it; one that takes
    longer than 0.2 s no longer counts. If a slate takes more than 9 ms under light load, a gateway
    needs one for each 1.5 ms."""
    default_deadline: float = Field(default=1.0, gt=0)
    """Deadline in seconds of calls that carry none."""
    features_timeout: float = Field(default=0.2, gt=0)
    """Maximum seconds to wait for the online store."""
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
    """The Redis server that features may be in."""
    retrieval_timeout: float = Field(default=0.5, gt=0)
    """Maximum seconds to wait for candidates, including Envoy's retries."""
    ranking_timeout: float = Field(default=0.5, gt=0)
    """Maximum seconds to wait for ranking, including Envoy's retries."""
    slate_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the viewers whose slates are recorded in the log, by a hash of their ids. It needs a
    log, and consumers with the same setting, which archive them."""
    max_events_lag: float = Field(default=10, gt=0)
    """Seconds after which an event that is recorded but not applied makes slates declare it."""
    rules: Path | None = None
    """TOML file of the site's rules, which is followed: filters, boosts, pins and caps of all
    slates."""
    release_swap_timeout: float = Field(default=10.0, ge=0)
    """Maximum seconds for which a gateway delays its swap to a loaded release because a candidate
    or ranking pod neither serves nor loads it."""
