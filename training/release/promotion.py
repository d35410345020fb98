"""Decision on a promotion: fetch both releases, measure them, ask the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vireo.server.candidate.release import FILES as CANDIDATE_FILES
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.ranking.release import FILES as RANKING_FILES
from vireo.server.releases import layout
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channel_document import BestFigures
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, OlderFormatError, ReleaseError
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import NotInStoreError
from vireo.training.data.dataset import DatasetMissingError, describe_dataset, is_example
from vireo.training.evaluation.served import check_dataset, check_split
from vireo.training.features.watches import FeaturesMissingError, Split, load_watches
from vireo.training.release.gate import FIRST, GateResult, judge, judge_first
from vireo.training.release.measure import LoadedRelease, measure

FILES = tuple(dict.fromkeys((*CANDIDATE_FILES, *RANKING_FILES)))
"""The files of a release that recommending needs."""


class NotComparableError(VireoError):
    """Two releases can't be measured on the same watches; the message says why."""


def ask_gate(
    home: Home,
    store: ReleaseStore,
    cache: ReleaseCache,
    now_id: str,
    candidate_id: str,
    *,
    max_viewers: int,
    best: Sequence[BestFigures] = (),
    replaces: bool = False,
) -> GateResult:
    """Compare a candidate with the release that is served now, both measured in one run.

    Args:
        home: holds the data set, and the measuring home with the held-out watches' features.
        store: holds the releases.
        cache: the releases are fetched through it.
        now_id: the current release.
        candidate_id: the release to promote.
        max_viewers: maximum number of test viewers.
        best: best figures kept by the channel.
        replaces: whether the candidate replaces the current release in its channel. A release of
            the user's own data may then replace one of example data unmeasured.

    Raises:
        ReleaseError: no pod would serve the candidate.
        StoreError: the candidate isn't in the store, or the store can't be read.
    """
    candidate = store.manifest(candidate_id)
    try:
        now = store.manifest(now_id)
    except OlderFormatError as error:
        # This build can neither serve nor measure it, and a new format needs a first release:
        # the only case in which the current release doesn't block.
        return GateResult(
            "nothing to compare",
            reason=f"the current release is of an earlier build's format: {error}",
        )
    except (NotInStoreError, ReleaseError) as error:
        return GateResult(
            "not comparable", reason=f"the current release can't be measured: {error}"
        )
    served = LoadedRelease.load(cache.fetch(store, candidate_id, FILES))
    if replaces and now.dataset != candidate.dataset and _gives_way(home, now, candidate):
        return GateResult(
            "nothing to compare",
            reason=f"{now_id} was made from example data, {now.dataset}, and {candidate_id} from "
            f"{candidate.dataset}; to take it back: vireo release rollback",
        )
    measuring = home.measuring
    try:
        asked = [_measurable(store, cache, manifest) for manifest in (now, candidate)]
        split = _split_of_both(measuring, *(each.manifest for each in asked))
        if candidate.measured:
            asked.append(served)
        watches = load_watches(measuring, candidate.dataset)
    except (
        NotComparableError,
        DatasetMissingError,
        FeaturesMissingError,
        ReleaseError,
        NotInStoreError,
    ) as error:
        return GateResult("not comparable", reason=str(error))
    repo = measuring.features(candidate.dataset)
    measured = measure(asked, watches, repo, max_viewers=max_viewers)
    if measured is None:
        return GateResult(
            "not comparable", reason="no held-out video is in the catalogues of both releases"
        )
    result = judge(measured[0], measured[1], best, *measured[2:])
    if now.data_fingerprint == split.data_fingerprint:
        return result
    return replace(result, reason=f"{now_id} was trained on an earlier state of the data")


def ask_gate_of_first(
    home: Home, store: ReleaseStore, cache: ReleaseCache, candidate_id: str, *, max_viewers: int
) -> GateResult:
    """Compare a channel's first release, which has a measured twin, with that.

    It passes if this machine can't measure them. Arguments and errors are those of `ask_gate`.
    """
    candidate, measuring = store.manifest(candidate_id), home.measuring
    try:
        # First, since a machine without the data shall not load two releases for nothing.
        watches = load_watches(measuring, candidate.dataset)
        twin = _measurable(store, cache, candidate)
        _split_of(measuring, twin.manifest)
        served = LoadedRelease.load(cache.fetch(store, candidate_id, FILES))
        repo = measuring.features(candidate.dataset)
        measured = measure([twin, served], watches, repo, max_viewers=max_viewers)
    except ReleaseError:
        raise
    except VireoError as error:
        reason = f"{FIRST}, and can't be compared with its measured twin: {error}"
        return GateResult("nothing to compare", reason=reason)
    if measured is None:
        return GateResult("nothing to compare", reason=f"{FIRST}; it has no held-out video")
    return judge_first(*measured)


def _measurable(store: ReleaseStore, cache: ReleaseCache, manifest: Manifest) -> LoadedRelease:
    """Load the measurable part of a release: its measured twin, or itself if it has none."""
    if not manifest.measured:
        return LoadedRelease.load(cache.fetch(store, manifest.release_id, FILES))
    twin = {path: f"{layout.MEASURED}/{path}" for path in (MANIFEST_NAME, *FILES)}
    files = [
        place
        for path, place in twin.items()
        if path not in layout.OPTIONAL or place in manifest.files
    ]
    return LoadedRelease.load(cache.fetch(store, manifest.release_id, files) / layout.MEASURED)


def _gives_way(home: Home, now: Manifest, candidate: Manifest) -> bool:
    """Return whether a release of example data may be replaced by this one of other data.

    Names of data sets prove little: the current release must match the example data here by
    fingerprint, and a release of example data never replaces one of other data unmeasured.
    """
    if not is_example(home, now.dataset) or is_example(home, candidate.dataset):
        return False
    return describe_dataset(home, now.dataset).fingerprint == now.data_fingerprint


def _split_of_both(home: Home, now: Manifest, candidate: Manifest) -> Split:
    """Return the split that both releases can be tested on.

    The current release may come from an earlier state of the same data set: it has not seen what
    is held out now, or, if data was removed, has seen it, which makes the gate stricter. The
    candidate must come from exactly this split.

    Raises:
        NotComparableError: there is no such split.
    """
    if (now.dataset, now.holdout) != (candidate.dataset, candidate.holdout):
        raise NotComparableError(
            f"{candidate.release_id} is of data set {candidate.dataset}, holding out "
            f"{_held_out(candidate)}; {now.release_id} is of {now.dataset}, holding out "
            f"{_held_out(now)}"
        )
    return _split_of(home, candidate)


def _split_of(home: Home, candidate: Manifest) -> Split:
    """Return the split that a release was trained on; raise NotComparableError if it is another."""
    split = Split.load(home, candidate.dataset)
    try:
        check_dataset(candidate, candidate.dataset)
        check_split(candidate, split)
    except VireoError as error:
        raise NotComparableError(str(error)) from error
    return split


def _held_out(manifest: Manifest) -> str:
    return "each viewer's last watch" if manifest.holdout == "last" else "nothing"
