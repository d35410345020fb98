"""Verifies a release in the store: every digest, then whether every kind of pod can load it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vireo.server.errors import VireoError
from vireo.server.gateway.release import FILES as GATEWAY_FILES
from vireo.server.gateway.release import PopularList
from vireo.server.models.model import GoldenMismatchError
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.ranking.release import FILES as RANKING_FILES
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import FILES as CANDIDATE_FILES
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.bucket import PARALLEL, NotInStoreError
from vireo.server.releases.cache import LoadProgress, download
from vireo.server.releases.layout import OPTIONAL
from vireo.server.releases.manifest import MANIFEST_NAME, FileEntry, ReleaseError
from vireo.server.releases.store import ReleaseStore, release_object

ARCHITECTURE_NOISE = 1e-2
"""Maximum difference from the goldens that another kind of processor may explain: of a vector's
value, or relative to a probability. On one kind, relative ones up to 4e-4 were measured."""


def _load_candidate(folder: Path) -> None:
    release = CandidateRelease.load(folder)
    release.replay_goldens()
    # Pods load it only if they follow the log.
    Placement.load(folder, release.manifest, len(release.keys)).replay_goldens()


PODS: Mapping[str, tuple[Sequence[str], Callable[[Path], object]]] = {
    "candidate": (CANDIDATE_FILES, _load_candidate),
    "ranking": (RANKING_FILES, lambda folder: RankingRelease.load(folder).replay_goldens()),
    # Features aren't part of a release: they may be on another machine.
    "gateway": (GATEWAY_FILES, PopularList.load),
}
"""The files that each kind of pod needs, and how it loads them before it serves a release."""


@dataclass(frozen=True)
class Verification:
    """Findings in one release."""

    release_id: str
    files: int = 0
    """Number of files read."""
    size: int = 0
    """Number of bytes read."""
    problems: tuple[str, ...] = ()
    """Everything that is wrong, a line each; empty if nothing is."""
    notes: tuple[str, ...] = ()
    """Remarks that aren't problems of the release."""


def verify_release(store: ReleaseStore, release_id: str, scratch: Path) -> Verification:
    """Read every file of a release from the store, and load it as every kind of pod does.

    A kind of pod whose files are damaged isn't tried.

    Args:
        store: the store to read it from.
        release_id: the release.
        scratch: an empty folder with room for the release.

    Raises:
        StoreError: the store can't be read.
    """
    try:
        manifest = store.manifest(release_id)
    except (NotInStoreError, ReleaseError) as error:
        return Verification(release_id, problems=(str(error),))
    manifest.write(scratch)

    def damage(path: str, entry: FileEntry) -> str:
        try:
            download(store, release_id, scratch, LoadProgress(), path, entry)
        except (NotInStoreError, ReleaseError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(PARALLEL) as threads:
        found = threads.map(damage, manifest.files.keys(), manifest.files.values())
        damaged = {path: why for path, why in zip(manifest.files, found, strict=True) if why}
    problems, notes = list(damaged.values()), []
    for kind, (files, load) in PODS.items():
        lacking = [path for path in files if path not in {*manifest.files, *OPTIONAL}]
        unfit = [path for path in files if path in damaged]
        problems += [f"{path} isn't in the manifest; {kind} pods need it" for path in lacking]
        if lacking or unfit:
            notes.append(f"not loaded as a {kind} pod: {', '.join(lacking + unfit)} is unfit")
            continue
        try:
            load(scratch)
        except Exception as error:  # noqa: BLE001
            # Whatever a bad release makes a loader raise is what verification looks for.
            if note := _note_on_goldens(error, manifest.architecture):
                notes.append(f"as a {kind} pod: {note}")
            else:
                problems.append(f"as a {kind} pod: {_reason(error, scratch)}")
    prefix = release_object(release_id, "")
    stored = store.bucket.objects(prefix, recursive=True)
    listed = {*manifest.files, MANIFEST_NAME}
    paths = [each.name.removeprefix(prefix) for each in stored]
    notes += [
        f"{path} isn't in the manifest; no pod reads it" for path in paths if path not in listed
    ]
    size = sum(entry.size for entry in manifest.files.values())
    return Verification(release_id, len(manifest.files), size, tuple(problems), tuple(notes))


def named_releases(
    store: ReleaseStore, channel: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is wrong with channels, a line each, and the published releases that they name.

    Args:
        store: the store to read them from.
        channel: the one channel to read; all of them if empty.
    """
    problems: list[str] = []
    releases: set[str] = set()
    channels = store.channels.all()
    for name in [channel] if channel else sorted(channels):
        if name not in channels:
            problems.append(f"channel {name} was never set")
            continue
        release_id = channels[name].release_id
        try:
            store.check_published(release_id)
            releases.add(release_id)
        except NotInStoreError:
            problems.append(
                f"channel {name} names {release_id}, which isn't in the store; point it at one "
                f"that is: vireo release promote ID --channel {name}"
            )
    return tuple(problems), tuple(sorted(releases))


def _note_on_goldens(error: Exception, made_on: str) -> str:
    """Return a remark if another processor may explain a difference from goldens, else nothing."""
    here = platform.machine()
    if not isinstance(error, GoldenMismatchError) or made_on in ("", here):
        return ""
    if not error.difference <= ARCHITECTURE_NOISE:
        return ""
    return (
        f"goldens were made on {made_on}, this is {here}, and differ by {error.difference:.2g}: "
        f"not judged; verify it on {made_on}"
    )


def _reason(error: Exception, scratch: Path) -> str:
    reason = str(error) if isinstance(error, VireoError) else f"{type(error).__name__}: {error}"
    return reason.replace(f"{scratch}/", "")
