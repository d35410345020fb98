"""What the gateway holds of a release: its manifest, the popular list and the feature store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.gateway.fallback import PopularList
from server.gateway.features import FeatureReader
from server.releases.layout import POPULAR_IDS
from server.releases.manifest import Manifest

FILES = (POPULAR_IDS,)
"""The files that the gateway needs of a release."""


@dataclass(frozen=True)
class GatewayRelease:
    """Everything that one answer is made from; replaced as a whole."""

    manifest: Manifest
    popular: PopularList
    reader: FeatureReader
    """Features of the data set that the release was trained on."""

    @staticmethod
    def load(folder: Path, features: Path, timeout: float) -> GatewayRelease:
        """Loads it from a release's folder.

        Args:
            folder: the release's folder; only FILES and the manifest need be there.
            features: folder that holds the Feast repository of each data set, by name.
            timeout: most seconds that the online store may take.

        Raises:
            ReleaseError: a file of the release is unfit.
            VireoError: the features of its data set are missing.
        """
        manifest = Manifest.read(folder)
        reader = FeatureReader(features / manifest.dataset, timeout)
        return GatewayRelease(manifest, PopularList.load(folder), reader)
