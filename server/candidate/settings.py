"""Settings of the candidate pod."""

from __future__ import annotations

from pydantic import Field

from server.candidate.quotas import Quotas
from server.rpc.pod import PodSettings


class CandidateSettings(PodSettings):
    """PodSettings, and how places are shared among sources."""

    quotas: Quotas = Field(default_factory=Quotas)
    """Shares of the answer: `VIREO_QUOTAS='{"co_watch": 0.2, "popular": 0.1}'`."""
