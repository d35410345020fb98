"""Settings of a gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from server.home import Home
from server.pod.pod import PodSettings
from server.releases.manifest import MAX_CANDIDATES


class GatewaySettings(PodSettings):
    """Where the gateway finds what it needs, and how long it waits for it."""

    max_message_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest request; the largest valid one, 1,000 ids of 128 bytes, is a fifth of it."""

    candidate_target: str = "127.0.0.1:8101"
    """host:port of the candidate pods, or of the Envoy listener before them."""
    ranking_target: str = "127.0.0.1:8102"
    """The same for the ranking pods."""
    features: Path = Field(default_factory=lambda: Home.current().root / "features")
    """Folder with the Feast repository of each data set, by name."""

    candidates: int | None = Field(default=None, ge=1, le=MAX_CANDIDATES)
    """How many candidates to have ranked, in place of the own number of each release, which its
    ranker learned from; a larger page asks for as many as it has."""
    least_candidates: int = Field(default=100, ge=1, le=MAX_CANDIDATES)
    """How few to ask for at worst, while pods are slow to answer."""
    default_deadline: float = Field(default=1.0, gt=0)
    """Seconds within which to answer a caller that sets no deadline."""
    features_timeout: float = Field(default=0.2, gt=0)
    """Most seconds to wait for the online store."""
    last_features_seconds: float = Field(default=3600, ge=0)
    """For how long to keep the features read last of each viewer, for when the store fails."""
    last_features_bytes: int = Field(default=64 << 20, ge=0)
    """Most memory of these features; 0 keeps none."""
    retrieval_timeout: float = Field(default=0.5, gt=0)
    """Most seconds to wait for candidates, all tries of Envoy together."""
    ranking_timeout: float = Field(default=0.5, gt=0)
    """The same for ranking."""
    shadow_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the answered requests that is repeated on the shadow pool and compared."""
    turn_last_seconds: float = Field(default=10.0, ge=0)
    """Most seconds to wait, with a new release built, while an inner pod neither serves nor loads
    it."""
