"""Compares releases for the gate: fetches them, measures them on this machine's data, judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import FILES as RANKING_FILES
from vireo.server.recommend.retrieval.release import FILES as CANDIDATE_FILES
from vireo.server.releases import layout
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import BestFigures
from vireo.server.releases.gate import FIRST, GateResult, judge
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, OlderFormatError, ReleaseError
from vireo.server.releases.store import ReleaseStore
from vireo.training.data.dataset import DatasetMissingError, describe_dataset, is_example
from vireo.training.evaluation.run import check_dataset, check_split
from vireo.training.features.watches import FeaturesMissingError, Split, load_watches
from vireo.training.release.measure import LoadedRelease, measure

FILES = tuple(dict.fromkeys((*CANDIDATE_FILES, *RANKING_FILES)))
"""The files of a release that recommending needs."""


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
