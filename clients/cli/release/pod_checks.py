"""What each kind of pod does with a release before it serves it, for `vireo release verify`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.candidate.release import FILES as CANDIDATE_FILES
from server.candidate.release import CandidateRelease
from server.gateway.fallback import PopularList
from server.gateway.release import FILES as GATEWAY_FILES
from server.ranking.release import FILES as RANKING_FILES
from server.ranking.release import RankingRelease
from server.releases import layout
from server.releases.manifest import ReleaseError
from server.releases.verify import PodCheck

_SEARCHES = 1_000
_NEIGHBOURS = 100


def pod_checks() -> dict[str, PodCheck]:
    """The kinds of pod by name."""
    return {
        "candidate": PodCheck(CANDIDATE_FILES, _load_candidate),
        "ranking": PodCheck(RANKING_FILES, _load_ranking),
        "gateway": PodCheck(GATEWAY_FILES, _load_gateway),
    }


def _load_candidate(folder: Path) -> None:
    release = CandidateRelease.load(folder)
    _check_index(release)
    release.replay_goldens()


def _load_ranking(folder: Path) -> None:
    RankingRelease.load(folder).replay_goldens()


def _load_gateway(folder: Path) -> None:
    # The features of its data set are no part of a release: they may be on another machine.
    PopularList.load(folder)


def _check_index(release: CandidateRelease) -> None:
    """Searches for the neighbours of some videos: what is found must be rows of the tables."""
    count = len(release.keys)
    rows = np.linspace(0, count - 1, min(count, _SEARCHES)).astype(np.int64)
    _, found = release.index.search(release.vectors[rows], min(count, _NEIGHBOURS))
    beyond = np.unique(found[found >= count])
    if len(beyond):
        raise ReleaseError(
            f"{layout.VIDEO_INDEX}: gives row {beyond[0]} and {len(beyond) - 1} others that the "
            f"tables of {count} videos lack"
        )
