"""What the fields of manifests and channels may hold, and how their documents are parsed.

Names become parts of paths and object names, and numbers reach every request: values that a
reader couldn't handle are refused here, once, when the document is parsed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic_core
from pydantic import AwareDatetime, Field, ValidationError

from vireo.server.home import DATASET_NAME

RELEASE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
CHANNEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_FILE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"
"""Relative, with slashes, without empty or hidden parts: neither "." nor ".." is one."""
_SHOWN = 120
"""Maximum characters of a document's content in an error message."""

ReleaseId = Annotated[str, Field(pattern=RELEASE_ID)]
DatasetName = Annotated[str, Field(pattern=DATASET_NAME)]
FilePath = Annotated[str, Field(pattern=_FILE_PATH, max_length=256)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{0,128}$")]
"""A version, a fingerprint or a machine's name; may be empty."""
Label = Annotated[str, Field(min_length=1, max_length=128)]
"""Name of a feature, constant, metric or measure."""
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Revision = Annotated[int, Field(ge=0, le=99_999_999)]
"""Revision of a channel: records are named by eight digits, and sorted by name."""
FileSize = Annotated[int, Field(ge=0, le=1 << 53)]
"""Maximum size of a file: the sum over a release's files is an int64 in responses."""
Time = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
]


def parse_json(text: bytes, max_bytes: int) -> Any:
    """Return the JSON document in `text`.

    Raises:
        ValueError: it is longer than `max_bytes`, isn't JSON, has a number that isn't finite, or is
            nested too deeply.
    """
    if len(text) > max_bytes:
        raise ValueError(f"has more than {max_bytes:,} bytes")
    return pydantic_core.from_json(text, allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """Return the first unfit field of a document and what is wrong with it, on one short line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the document"
    if first["type"] == "extra_forbidden":
        return f"{shown(place)} isn't known to this build; has a newer one written it?"
    return f"{shown(place)}: {shown(first['msg'])}"


def shown(text: str) -> str:
    """Return a document's text as it may stand in an error: one line, printable, bounded."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
