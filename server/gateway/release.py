"""The gateway's part of a release: manifest, popular list and feature store."""

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
    """Everything that a slate is made from; replaced as a whole."""

    manifest: Manifest
    popular: PopularList
    reader: FeatureReader
    """Features of the data set that the release was trained on."""

    @staticmethod
    def load(folder: Path, features: Path, timeout: float) -> GatewayRelease:
        """Load it from a release's folder.

        Args:
            folder: the release's folder, with the manifest and FILES at least.
            features: folder with a Feast repository per data set, by its name.
            timeout: maximum seconds for the online store to respond.

        Raises:
            ReleaseError: a file of the release is invalid.
            VireoError: the features of its data set are missing.
        """
        manifest = Manifest.read(folder)
        reader = FeatureReader(features / manifest.dataset, timeout)
        return GatewayRelease(manifest, PopularList.load(folder), reader)
