"""The checks of each kind of pod before it serves a release, for `vireo release verify`."""

from __future__ import annotations

from pathlib import Path

from vireo.server.candidate.release import FILES as CANDIDATE_FILES
from vireo.server.candidate.release import CandidateRelease
from vireo.server.gateway.fallback import PopularList
from vireo.server.gateway.release import FILES as GATEWAY_FILES
from vireo.server.live.placement import Placement
from vireo.server.ranking.release import FILES as RANKING_FILES
from vireo.server.ranking.release import RankingRelease
from vireo.server.releases.verify import PodCheck


def pod_checks() -> dict[str, PodCheck]:
    """Return the check of each kind of pod, by name."""
    return {
        "candidate": PodCheck(CANDIDATE_FILES, _check_candidate),
        "ranking": PodCheck(
            RANKING_FILES, lambda folder: RankingRelease.load(folder).replay_goldens()
        ),
        # Features aren't part of a release: they may be on another machine.
        "gateway": PodCheck(GATEWAY_FILES, PopularList.load),
    }


def _check_candidate(folder: Path) -> None:
    release = CandidateRelease.load(folder)
    release.replay_goldens()
    # Pods load it only if they follow the log.
    Placement.load(folder, release.manifest, len(release.keys)).replay_goldens()
