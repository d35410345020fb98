"""The gateway's part of a release: manifest, popular list and feature store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vireo.v1 import filter_pb2

from server.filters.declared import Declared
from server.filters.expression import BadFilterError, FilterExpression, decode
from server.gateway.fallback import PopularList
from server.gateway.features import FeatureReader
from server.releases.layout import ATTRIBUTES, POPULAR_ATTRIBUTES, POPULAR_IDS, TAKEDOWNS
from server.releases.manifest import Manifest
from server.rpc.errors import invalid_argument

FILES = (POPULAR_IDS, ATTRIBUTES, POPULAR_ATTRIBUTES, TAKEDOWNS)
"""The files that the gateway needs of a release."""


@dataclass(frozen=True)
class GatewayRelease:
    """Everything that a slate is made from; replaced as a whole."""

    manifest: Manifest
    popular: PopularList
    reader: FeatureReader
    """Features of the data set that the release was trained on."""
    declared: Declared
    """Attributes that videos can be filtered by."""

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
        return GatewayRelease(manifest, PopularList.load(folder), reader, Declared.read(folder))

    def can_apply(self, expression: FilterExpression) -> bool:
        """Return whether the release declares all attributes of a filter, as it compares them."""
        return expression.applies_to(self.declared)

    def expression(self, message: filter_pb2.Filter, field: str = "filter") -> FilterExpression:
        """Return what the filter in a field of a request says.

        Raises:
            RpcError: INVALID_ARGUMENT: the release can't be filtered by it.
        """
        try:
            return decode(message, field, self.declared)
        except BadFilterError as error:
            raise invalid_argument(error.violations) from error
