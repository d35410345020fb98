"""Comparison of releases for the gate: fetches them, measures them in one run, and judges."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.home import Home
from vireo.server.recommend.ranking.pipeline import requested, scored
from vireo.server.recommend.ranking.release import FILES as RANKING_FILES
from vireo.server.recommend.ranking.release import Ranking, RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import FILES as CANDIDATE_FILES
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import BestFigures
from vireo.server.releases.gate import FIRST, GateResult, judge
from vireo.server.releases.gate_measures import Measured, Predictions, in_both
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, OlderFormatError, ReleaseError
from vireo.server.releases.store import ReleaseStore
from vireo.server.signals import OUTCOMES
from vireo.training.data.dataset import DatasetMissingError, describe_dataset, is_example
from vireo.training.evaluation.chain import ChainAnswers, ranking_query, run_chain
from vireo.training.evaluation.run import check_dataset, check_split
from vireo.training.evaluation.systems import features_before_test, list_ranks
from vireo.training.features.watches import (
    FeaturesMissingError,
    Split,
    load_watches,
    outcome_labels,
)
from vireo.training.metrics import gains, hits

_TIMED_VIEWERS = 200
_WARM_UP = 5
_NO_KEY = np.iinfo(np.int64).min
FILES = tuple(dict.fromkeys((*CANDIDATE_FILES, *RANKING_FILES)))
"""The files of a release that recommending needs."""


@dataclass(frozen=True)
class LoadedRelease:
    """A release as candidate and ranking pods load it."""

    candidates: CandidateRelease
    ranking: RankingRelease

    @property
    def manifest(self) -> Manifest:
        """The release's manifest."""
        return self.candidates.manifest

    @staticmethod
    def load(folder: Path) -> LoadedRelease:
        """Load a release and replay its goldens; raise ReleaseError if a pod would refuse it."""
        loaded = LoadedRelease(CandidateRelease.load(folder), RankingRelease.load(folder))
        loaded.candidates.replay_goldens()
        loaded.ranking.replay_goldens()
        return loaded


def measure(
    releases: Sequence[LoadedRelease], watches: pd.DataFrame, repo: Path, *, max_viewers: int
) -> list[Measured] | None:
    """Measure releases on the same test viewers, each with its own number of candidates.

    The first two are compared: the log loss of watches is that of candidates which both have, and
    coverage is a share of the first one's catalogue at most, since viewers have no more places for
    one that grows. A viewer whose held-out video is missing from any catalogue is excluded: it
    would count as that release's miss, but says nothing about its models. More than `max_viewers`
    are sampled deterministically.

    Returns:
        Measurements of each release; None if no viewer is left.
    """
    test = watches[watches["part"] == "test"]
    keys = video_keys(test["video_id"].tolist())
    test = test[np.all([each.candidates.rows.find(keys) >= 0 for each in releases], axis=0)]
    if not len(test):
        return None
    if len(test) > max_viewers:
        test = test.sample(max_viewers, random_state=0).sort_index()
    features = features_before_test(test, repo)
    keys = video_keys(test["video_id"].tolist())
    asked = [_ask(release, features, keys, repo) for release in releases]
    compared = [*in_both(asked[0].keys, asked[1].keys), *(each.real for each in asked[2:])]
    seconds = _inference_seconds(releases, features[:_TIMED_VIEWERS])
    outcomes = outcome_labels(test)
    for each in asked:  # what one of them doesn't predict can't be compared
        outcomes[np.isnan(each.answers.target_outcomes)] = np.nan
    held_out = _fingerprint(test)
    sizes = [len(each.candidates.keys) for each in releases]
    return [
        Measured(
            held_out=held_out,
            gains=gains(each.ranks, 10),
            hits=hits(each.ranks, 100),
            slates=each.answers.ranked[:, :10],
            best=each.keys[:, :100],
            videos=min(sizes[0], size),
            predictions={
                "watch": each.watch_predictions(shared),
                **each.outcome_predictions(outcomes),
            },
            weights=each.release.manifest.score_weights.root,
            seconds=spent,
        )
        for each, shared, spent, size in zip(asked, compared, seconds, sizes, strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    """A release's responses for v viewers whose held-out videos are rows `targets`, int64[v]."""

    release: LoadedRelease
    answers: ChainAnswers
    targets: Int64Array

    @cached_property
    def ranks(self) -> Int64Array:
        """Rank of each held-out video, int64[v]."""
        return list_ranks(self.answers.ranked, self.targets)

    @cached_property
    def real(self) -> BoolArray:
        """Which entries are candidates rather than padding, bool[v, c]."""
        return self.answers.ranked >= 0

    @cached_property
    def keys(self) -> Int64Array:
        """Keys of the candidates, best first, int64[v, c]; _NO_KEY for none."""
        return np.where(self.real, self.release.candidates.keys[self.answers.ranked], _NO_KEY)

    def watch_predictions(self, compared: BoolArray) -> Predictions:
        """Return predicted and observed watches of the candidates."""
        watched = self.answers.ranked == self.targets[:, None]
        return Predictions.of(self.answers.watch, watched, self.real, compared & self.real)

    def outcome_predictions(self, labels: Float32Array) -> dict[str, Predictions]:
        """Return predictions of OUTCOMES of the held-out videos; `labels` may be NaN."""
        known = ~np.isnan(labels)
        return {
            task.name: Predictions.of(
                self.answers.target_outcomes[:, [column]],
                labels[:, [column]] > 0,
                known[:, [column]],
                known[:, [column]],
            )
            for column, task in enumerate(OUTCOMES)
        }


def _ask(
    release: LoadedRelease, features: Sequence[ViewerFeatures], keys: Int64Array, repo: Path
) -> _Asked:
    """Return a release's responses for viewers whose held-out videos have these keys."""
    targets = release.candidates.rows.find(keys)
    count = release.candidates.manifest.candidates
    answers = run_chain(release.candidates, release.ranking, features, targets, count, repo)
    return _Asked(release, answers, targets)


def _fingerprint(test: pd.DataFrame) -> str:
    """Return the SHA-256 of the test viewers and their held-out watches."""
    columns = test[["viewer_id", "video_id", "time"]].astype(str)
    # Figures that were measured with the newest snapshot's features, or with videos that weren't
    # published yet, don't compare with these.
    kind = "as of the request, of what was published"
    return hashlib.sha256(f"{kind}\n{columns.to_csv(index=False)}".encode()).hexdigest()


def _inference_seconds(
    releases: Sequence[LoadedRelease], features: Sequence[ViewerFeatures]
) -> list[Float64Array]:
    """Return the CPU seconds of viewer tower and ranker by viewer, float64[t] for each release.

    CPU time of this thread, in which both run, excludes other work on the machine. The releases
    take turns, in alternating order, so that any slowdown affects both equally.
    """
    asked = [_timed_call(release) for release in releases]
    spent = np.zeros((len(releases), len(features)))
    for viewer in features[:_WARM_UP]:
        for call in asked:
            call(viewer)
    for place, viewer in enumerate(features):
        order = range(len(releases)) if place % 2 else reversed(range(len(releases)))
        for each in order:
            spent[each, place] = asked[each](viewer)
    return list(spent)


def _timed_call(release: LoadedRelease) -> Callable[[ViewerFeatures], float]:
    candidates, ranking = release.candidates, release.ranking
    retrieval = CandidatePipeline(candidates, fail_open=False)
    count = candidates.manifest.candidates

    def call(viewer: ViewerFeatures) -> float:
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        query = Ranking.of(ranking, ranking_query(viewer, found))
        retrieved = requested(query)
        start = time.thread_time()
        candidates.viewer_vector(viewer)
        scored(query, retrieved)
        return time.thread_time() - start

    return call


class NotComparableError(VireoError):
    """Two releases can't be measured on the same watches; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Compares releases of a store on the held-out watches of this machine."""

    home: Home
    """Holds the data set, and the measuring home with the held-out watches' features."""
    store: ReleaseStore
    cache: ReleaseCache
    """The releases are fetched through it."""
    max_viewers: int
    """Maximum number of test viewers."""

    def compare(
        self,
        candidate_id: str,
        now_id: str | None,
        best: Sequence[BestFigures] = (),
        *,
        replaces: bool = False,
    ) -> GateResult:
        """Compare a candidate with the release that is served now, both measured in one run.

        A channel's first release is compared with its measured twin alone, and passes if this
        machine can't measure them.

        Args:
            candidate_id: the release to promote.
            now_id: the current release; None if there is none.
            best: best figures kept by the channel.
            replaces: whether the candidate replaces the current release in its channel. A release
                of the user's own data may then replace one of example data unmeasured.

        Raises:
            ReleaseError: no pod would serve the candidate.
            StoreError: the candidate isn't in the store, or the store can't be read.
        """
        candidate = self.store.manifest(candidate_id)
        try:
            now = self.store.manifest(now_id) if now_id else None
        except OlderFormatError as error:
            # This build can neither serve nor measure it, and a new format needs a first release:
            # the only case in which the current release doesn't block.
            why = f"the current release is of an earlier build's format: {error}"
            return GateResult("nothing to compare", reason=why)
        except (NotInStoreError, ReleaseError) as error:
            why = f"the current release can't be measured: {error}"
            return GateResult("not comparable", reason=why)
        served = self._load(candidate)
        if now and replaces and self._gives_way(now, candidate):
            return GateResult(
                "nothing to compare",
                reason=f"{now_id} was made from example data, {now.dataset}, and {candidate_id} "
                f"from {candidate.dataset}; to take it back: vireo release rollback",
            )
        return self._measured(now, candidate, served, best)

    def _measured(
        self,
        now: Manifest | None,
        candidate: Manifest,
        served: LoadedRelease,
        best: Sequence[BestFigures],
    ) -> GateResult:
        """Measure a release, which is loaded as `served`, and the current one if any; judge it."""
        try:
            pair = [self._measurable(each, served) for each in (now, candidate) if each]
            split = self._split(*(each.manifest for each in pair))
            watches = load_watches(self.home.measuring, candidate.dataset)
        except (NotComparableError, DatasetMissingError, FeaturesMissingError) as error:
            if now is None:
                why = f"{FIRST}, and can't be compared with its measured twin: {error}"
                return GateResult("nothing to compare", reason=why)
            return GateResult("not comparable", reason=str(error))
        except (ReleaseError, NotInStoreError) as error:
            if now is None:
                raise
            return GateResult("not comparable", reason=str(error))
        fits = [*pair, *([served] if candidate.measured else [])]
        repo = self.home.measuring.features(candidate.dataset)
        found = measure(fits, watches, repo, max_viewers=self.max_viewers)
        if found is None and now is None:
            return GateResult("nothing to compare", reason=f"{FIRST}; it has no held-out video")
        if found is None:
            why = "no held-out video is in the catalogues of both releases"
            return GateResult("not comparable", reason=why)
        if now is None:
            return judge(None, found[0], served=found[1])
        result = judge(found[0], found[1], best, *found[2:])
        if now.data_fingerprint == split.data_fingerprint:
            return result
        return replace(
            result, reason=f"{now.release_id} was trained on an earlier state of the data"
        )

    def _load(self, manifest: Manifest) -> LoadedRelease:
        return LoadedRelease.load(self.cache.fetch(self.store, manifest.release_id, FILES))

    def _measurable(self, manifest: Manifest, served: LoadedRelease) -> LoadedRelease:
        """Load the measurable part of a release: its measured twin, or itself if it has none."""
        if not manifest.measured:
            return served if served.manifest == manifest else self._load(manifest)
        places = (f"{layout.MEASURED}/{path}" for path in (MANIFEST_NAME, *FILES))
        optional = {f"{layout.MEASURED}/{path}" for path in layout.OPTIONAL}
        files = [place for place in places if place not in optional or place in manifest.files]
        folder = self.cache.fetch(self.store, manifest.release_id, files)
        return LoadedRelease.load(folder / layout.MEASURED)

    def _gives_way(self, now: Manifest, candidate: Manifest) -> bool:
        """Return whether a release of example data may be replaced by this one of other data.

        Names of data sets prove little: the current release must match the example data here by
        fingerprint, and a release of example data never replaces one of other data unmeasured.
        """
        if now.dataset == candidate.dataset or is_example(self.home, candidate.dataset):
            return False
        if not is_example(self.home, now.dataset):
            return False
        return describe_dataset(self.home, now.dataset).fingerprint == now.data_fingerprint

    def _split(self, *releases: Manifest) -> Split:
        """Return the split that releases can be tested on, the candidate last.

        The current release may come from an earlier state of the same data set: it has not seen
        what is held out now, or, if data was removed, has seen it, which makes the gate stricter.
        The candidate must come from exactly this split.

        Raises:
            NotComparableError: there is no such split.
        """
        now, candidate = releases[0], releases[-1]
        if (now.dataset, now.holdout) != (candidate.dataset, candidate.holdout):
            raise NotComparableError(
                f"{candidate.release_id} is of data set {candidate.dataset}, holding out "
                f"{_held_out(candidate)}; {now.release_id} is of {now.dataset}, holding out "
                f"{_held_out(now)}"
            )
        split = Split.load(self.home.measuring, candidate.dataset)
        try:
            check_dataset(candidate, candidate.dataset)
            check_split(candidate, split)
        except VireoError as error:
            raise NotComparableError(str(error)) from error
        return split


def _held_out(manifest: Manifest) -> str:
    return "each viewer's last watch" if manifest.holdout == "last" else "nothing"
