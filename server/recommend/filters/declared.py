"""The attributes of videos that a release declares, by which its videos can be filtered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.releases import layout
from vireo.server.releases.manifest import REMEDY, ReleaseError, first_problem

ATTRIBUTE_NAME = r"^[a-z][a-z0-9_]{0,63}$"
"""Without "=", which separates name and value in a label."""
TAG, CREATOR = "tag", "creator"
PUBLISHED, DURATION = "published", "duration"
BUILT_IN_LABELS = (CREATOR, TAG)
BUILT_IN_NUMBERS = (DURATION, PUBLISHED)
"""Attributes that every release declares: PUBLISHED in Unix seconds, DURATION in seconds."""
MAX_ATTRIBUTES = 16
"""Maximum attributes besides those."""
MAX_VALUE_BYTES = 128
"""Maximum bytes of a label's value in UTF-8."""

_Name = Annotated[str, Field(pattern=ATTRIBUTE_NAME)]


@dataclass(frozen=True)
class Declared:
    """Names of a release's attributes, by kind, each sorted."""

    labels: tuple[str, ...] = BUILT_IN_LABELS
    """Attributes of which a video has any number of texts."""
    numbers: tuple[str, ...] = BUILT_IN_NUMBERS
    """Attributes of which a video has one number at most; as the columns of layout.NUMBERS."""

    @staticmethod
    def read(folder: Path) -> Declared:
        """Read layout.ATTRIBUTES below a release's folder; raise ReleaseError as `parse` does."""
        file = folder / layout.ATTRIBUTES
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ReleaseError(f"{file}: can't be read: {error}") from error
        return Declared.parse(text, str(file))

    @staticmethod
    def parse(text: bytes, source: str) -> Declared:
        """Parse the content of layout.ATTRIBUTES.

        Raises:
            ReleaseError: it isn't such a document; the message names `source`.
        """
        try:
            document = _Document.model_validate_json(text)
        except ValidationError as error:
            raise ReleaseError(f"{source}: can't be read: {first_problem(error)}") from error
        names = [*document.labels, *document.numbers]
        if len({*names}) < len(names):
            raise ReleaseError(f"{source}: declares an attribute twice")
        if missing := {*BUILT_IN_LABELS, *BUILT_IN_NUMBERS} - {*names}:
            names_missing = ", ".join(sorted(missing))
            raise ReleaseError(f"{source}: must declare {names_missing}; {REMEDY}")
        for kind in (document.labels, document.numbers):
            if kind != sorted(kind):
                raise ReleaseError(f"{source}: {', '.join(kind)} must be sorted")
        return Declared(tuple(document.labels), tuple(document.numbers))


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    labels: list[_Name] = Field(max_length=len(BUILT_IN_LABELS) + MAX_ATTRIBUTES)
    numbers: list[_Name] = Field(max_length=len(BUILT_IN_NUMBERS) + MAX_ATTRIBUTES)


def label(attribute: str, value: str) -> str:
    """Return the text that stands for a value of an attribute of labels."""
    return f"{attribute}={value}"
