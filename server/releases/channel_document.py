"""What is stored of a channel: the record of its latest change, and what it is about to name."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.releases.fields import (
    Label,
    ReleaseId,
    Revision,
    Sha256,
    Time,
    first_problem,
    parse_json,
    shown,
)
from vireo.server.releases.store_errors import StoreError

Action = Literal["promote", "rollback", "share"]

MAX_FINDINGS = 16
MAX_FINDING = 4000
"""Characters."""
MAX_BEST_FIGURES = 8
"""Sets of held-out watches whose best figures a channel keeps."""
MAX_DOCUMENT_BYTES = 1 << 20
_PENDING = "pending"
NEVER_SET = json.dumps({_PENDING: None}).encode()
"""What a channel's object holds if its first change came to nothing."""


class BestFigures(BaseModel):
    """The best figures that a channel's releases have reached on the same held-out watches."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    held_out: Sha256
    """Fingerprint of these watches."""
    figures: dict[Label, float] = Field(max_length=64)
    """Figure by measure of the gate."""


class ChannelPointer(BaseModel):
    """One change of a channel, and therefore what it names from then on.

    Records of older builds lack the fields from `reason` on; unknown fields are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    release_id: ReleaseId
    updated_at: Time
    updated_by: str = Field(max_length=256)
    reason: str = Field(default="", max_length=16_000)
    """The reason, as given by whoever made the change."""
    revision: Revision = 0
    """Grows by one with each change."""
    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the viewers who get this release; for the canary channel only."""
    action: Action = "promote"
    previous: ReleaseId | None = None
    """The release named before; None for the first change."""
    returns_to: Revision | None = None
    """Revision that a rollback from here returns to; None if there is no good one."""
    forced: bool = False
    """Whether the gate's refusal was overridden."""
    findings: tuple[Annotated[str, Field(max_length=MAX_FINDING)], ...] = Field(
        default=(), max_length=MAX_FINDINGS
    )
    """The gate's objections, if they were overridden."""
    best_figures: tuple[BestFigures, ...] = Field(default=(), max_length=MAX_BEST_FIGURES)
    """Figures that the next release is compared with besides this one's, latest measured first."""


class Pending(BaseModel):
    """What a channel is about to name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    release_id: ReleaseId
    token: str = Field(max_length=64)
    """Identifies the change: no two notes are the same."""


class _Note(BaseModel):
    pending: Pending | None = None


@dataclass(frozen=True)
class ChannelDocument:
    """A channel's object."""

    pointer: ChannelPointer | None
    """None if the channel was never set: its first change has only noted what it will name."""
    pending: Pending | None
    body: bytes
    etag: str

    @staticmethod
    def parse(body: bytes, etag: str, source: str) -> ChannelDocument:
        """Return what a channel's object holds.

        Raises:
            StoreError: it isn't a channel; the message names `source` and the field.
        """
        try:
            document = parse_json(body, MAX_DOCUMENT_BYTES)
            pointer = None
            if not isinstance(document, dict) or document.keys() != {_PENDING}:
                pointer = ChannelPointer.model_validate(document)
            return ChannelDocument(pointer, _Note.model_validate(document).pending, body, etag)
        except ValueError as error:
            raise StoreError(
                f"{source} isn't a channel; remove it, and set it again with `vireo release "
                f"promote` ({_problem(error)})"
            ) from error


def parse_record(body: bytes, source: str) -> ChannelPointer:
    """Return a record of the history; raise StoreError if it isn't one."""
    try:
        return ChannelPointer.model_validate(parse_json(body, MAX_DOCUMENT_BYTES))
    except ValueError as error:
        raise StoreError(
            f"{source} isn't a record of a channel's change; remove it: the channel keeps what it "
            f"names, but no rollback goes back to that change or beyond it ({_problem(error)})"
        ) from error


def with_note(body: bytes, release_id: str) -> bytes:
    """Return a channel's object with a note of what it will name; `body` must be valid."""
    note = Pending(release_id=release_id, token=uuid.uuid4().hex)
    document = json.loads(body) | {_PENDING: note.model_dump()}
    return json.dumps(document, indent=2).encode()


def without_note(body: bytes) -> bytes:
    """Return a channel's object without any note; `body` must be valid."""
    document = json.loads(body)
    if document.pop(_PENDING, None) is None and document:
        return body
    return json.dumps(document, indent=2).encode() if document else NEVER_SET


def _problem(error: ValueError) -> str:
    return first_problem(error) if isinstance(error, ValidationError) else shown(str(error))
