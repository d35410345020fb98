"""What a build writes and reads of each format, and what two builds make of each other's.

A format has a version, or a rule for fields that its reader doesn't know, or both. A build's
description is data: one build's can be compared with another's, which isn't installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.errors import VireoError

_MAX_NAMED = 5
"""Fields that a message names."""

Written = Literal["always", "if set"]
UnknownFields = Literal["ignored", "refused"]


class Format(BaseModel):
    """One format, as one build knows it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str = ""
    """What it writes; empty for a format without a version."""
    reads: tuple[str, ...] = ("",)
    """Versions that it reads."""
    fields: Mapping[str, Written] = {}
    """Fields that it knows, and when it writes them; those within others have dots."""
    required: tuple[str, ...] = ()
    """Fields without which it can't be read."""
    unknown_fields: UnknownFields = "ignored"
    """What the reader does with fields that it doesn't know."""
    effect: str = ""
    """What happens if it can't be read, for people."""

    def problems(self, version: str, fields: Sequence[str]) -> Iterator[str]:
        """Yield why something of this version, with these fields, can't be read; nothing if it can.

        Args:
            version: its version; empty if it has none.
            fields: what it has.
        """
        if version not in self.reads:
            yield f"version {version or 'none'}, it reads {' and '.join(self.reads) or 'none'}"
        if self.unknown_fields == "refused":
            unknown = [name for name in fields if name not in self.fields]
            if unknown:
                yield f"it doesn't know {_named(unknown)}"
        missing = [name for name in self.required if name not in fields]
        if missing:
            yield f"it needs {_named(missing)}"


class Build(BaseModel):
    """The formats of one build."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    build: str
    """Vireo's version, and the commit if it is known."""
    formats: tuple[Format, ...]

    def format(self, name: str) -> Format | None:
        """Return a format by name; None if the build doesn't know it."""
        return next((each for each in self.formats if each.name == name), None)

    @staticmethod
    def read(path: Path) -> Build:
        """Return what `vireo upgrade formats --json` wrote into a file.

        Raises:
            VireoError: it can't be read.
        """
        try:
            return Build.model_validate_json(path.read_bytes())
        except OSError as error:
            raise VireoError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            raise VireoError(
                f"{path} isn't a build's formats; write one with: vireo upgrade formats --json"
            ) from error


class Difference(BaseModel):
    """Something that one build writes, and another can't read."""

    model_config = ConfigDict(frozen=True)

    format: str
    why: str
    certain: bool
    """Whether all that is written can't be read; else only what has a field that is optional."""
    effect: str


def unreadable(writer: Build, reader: Build) -> list[Difference]:
    """Return what `reader` can't read of what `writer` writes."""
    found = []
    for written in writer.formats:
        known = reader.format(written.name)
        if known is None:
            continue  # nothing of the reader's looks for it
        always = [name for name, when in written.fields.items() if when == "always"]
        for fields, certain in ((always, True), (list(written.fields), False)):
            why = "; ".join(known.problems(written.version, fields))
            if why:
                found.append(
                    Difference(format=known.name, why=why, certain=certain, effect=known.effect)
                )
                break
    return found


def _named(fields: Sequence[str]) -> str:
    shown = ", ".join(sorted(fields)[:_MAX_NAMED])
    more = len(fields) - _MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
