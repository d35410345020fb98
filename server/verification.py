"""Looks at a release's folder as every kind of pod would, and lists all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from server.candidate.release import FILES as CANDIDATE_FILES
from server.candidate.release import CandidateRelease
from server.errors import VireoError
from server.gateway.fallback import PopularList
from server.ranking.release import FILES as RANKING_FILES
from server.ranking.release import RankingRelease
from server.releases.layout import POPULAR_IDS
from server.releases.manifest import FileEntry, Manifest, ReleaseError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    part: str
    """What would refuse the release: "manifest", "files", "candidate", "ranking" or "gateway"."""
    reason: str


def verify_release(folder: Path) -> tuple[Problem, ...]:
    """All that is wrong with the release in `folder`; empty where every pod would serve it.

    Every file that the manifest lists is compared with its size and SHA-256; then the parts of
    each kind of pod are loaded, and their golden requests replayed. The gateway's features are
    no part of a release: they aren't looked at.

    Args:
        folder: a release with all its files.
    """
    try:
        manifest = Manifest.read(folder)
    except ReleaseError as error:
        return (Problem("manifest", str(error)),)
    problems = [
        Problem("files", reason)
        for path, entry in manifest.files.items()
        if (reason := _difference(folder, path, entry))
    ]
    for part, needed, load in _PARTS:
        lacking = [path for path in needed if path not in manifest.files]
        if lacking:
            problems.append(Problem(part, f"the manifest lacks {', '.join(lacking)}"))
            continue
        try:
            load(folder)
        except VireoError as error:
            problems.append(Problem(part, str(error)))
        except Exception as error:  # noqa: BLE001
            # Whatever a damaged file makes a library raise is what is to be told.
            problems.append(Problem(part, f"{type(error).__name__}: {error}"))
    return tuple(problems)


def _difference(folder: Path, path: str, entry: FileEntry) -> str:
    """How a file differs from what the manifest says; empty where it doesn't."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        return f"{path} leaves the release's folder"
    file = folder / path
    if not file.is_file():
        return f"{path} is missing"
    found = FileEntry.of(file)
    if found.size != entry.size:
        return f"{path} has {found.size} bytes, the manifest says {entry.size}"
    return "" if found == entry else f"{path} has another SHA-256 than the manifest says"


def _load_candidate(folder: Path) -> None:
    CandidateRelease.load(folder).replay_goldens()


def _load_ranking(folder: Path) -> None:
    RankingRelease.load(folder).replay_goldens()


_PARTS: tuple[tuple[str, Sequence[str], Callable[[Path], object]], ...] = (
    ("candidate", CANDIDATE_FILES, _load_candidate),
    ("ranking", RANKING_FILES, _load_ranking),
    ("gateway", (POPULAR_IDS,), PopularList.load),
)
