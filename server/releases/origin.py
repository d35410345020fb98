"""The data set of a release, also of one in another build's format."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from server.releases.fields import DatasetName, first_problem, parse_json, shown
from server.releases.manifest import MAX_MANIFEST_BYTES, ReleaseError


class _Origin(BaseModel):
    """The part of a manifest that every format has."""

    dataset: DatasetName


def trained_on(manifest: bytes, source: str) -> str:
    """Return the data set that a release was trained on, whichever build wrote its manifest.

    Raises:
        ReleaseError: it isn't a manifest; the message names the field and `source`.
    """
    try:
        return _Origin.model_validate(parse_json(manifest, MAX_MANIFEST_BYTES)).dataset
    except ValidationError as error:
        raise ReleaseError(f"{source}: manifest field {first_problem(error)}") from error
    except ValueError as error:
        raise ReleaseError(f"{source}: isn't a manifest: {shown(str(error))}") from error
