"""A release's manifest: the one file that pins everything that is served together."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.errors import VireoError
from server.features.constants import feature_constants
from server.features.ranking_inputs import (
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from server.releases.precision import Precisions

FORMAT_VERSION = 4
MANIFEST_NAME = "manifest.json"


class ReleaseError(VireoError):
    """A release that can't be served; the message names the file or field and why."""


class OlderFormatError(ReleaseError):
    """A release of a format that builds before this one made."""


class FileEntry(BaseModel):
    """Size in bytes and lower-case hexadecimal SHA-256 of one file of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str

    @staticmethod
    def of(path: Path) -> FileEntry:
        """The entry that describes the file at `path` as it is."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(size=path.stat().st_size, sha256=digest)


class FeatureSchema(BaseModel):
    """The features that the models of a release were trained on, in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video_features: tuple[str, ...]
    retrieval_features: tuple[str, ...]
    match_features: tuple[str, ...]
    viewer_features: tuple[str, ...]
    history_limit: int
    """How many of the last watched videos the viewer tower reads."""
    vector_size: int
    """Dimensions of the viewer and video embeddings."""
    constants: dict[str, float]
    """The numbers that give features their meaning; see `server.features.constants`."""

    @staticmethod
    def ours(history_limit: int, vector_size: int) -> FeatureSchema:
        """What this build computes, for models of these sizes."""
        return FeatureSchema(
            video_features=VIDEO_FEATURES,
            retrieval_features=RETRIEVAL_FEATURES,
            match_features=MATCH_FEATURES,
            viewer_features=VIEWER_FEATURES,
            history_limit=history_limit,
            vector_size=vector_size,
            constants=feature_constants(),
        )

    def difference(self) -> str:
        """The first field that differs from what this build computes; empty where none does."""
        for name, ours in (
            ("video_features", VIDEO_FEATURES),
            ("retrieval_features", RETRIEVAL_FEATURES),
            ("match_features", MATCH_FEATURES),
            ("viewer_features", VIEWER_FEATURES),
        ):
            theirs = getattr(self, name)
            if theirs != ours:
                return f"{name} is {list(theirs)}, this build computes {list(ours)}"
        constants = feature_constants()
        for name in sorted(self.constants.keys() | constants.keys()):
            theirs, mine = self.constants.get(name), constants.get(name)
            if theirs != mine:
                return f"constants[{name}] is {theirs}, this build computes with {mine}"
        return ""


class Quotas(BaseModel):
    """Shares of the candidates kept for the best of a source; two-tower gets what is left.

    On validation recall hardly moves with them. With EASE at .2, .3 and .4, Recall@300 is .901,
    .905 and .906 on ml-100k, and .862, .861 and .858 on ml-1m; Recall@500 .950, .952 and .960, and
    .910, .912 and .910. Fresh videos cost some, and get a few places all the same, or nobody would
    ever watch them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    co_watch: float = Field(default=0.2, ge=0, le=1)
    ease: float = Field(default=0.3, ge=0, le=1)
    popular: float = Field(default=0.05, ge=0, le=1)
    fresh: float = Field(default=0.02, ge=0, le=1)

    @model_validator(mode="after")
    def _within_one(self) -> Quotas:
        if sum(self.model_dump().values()) > 1:
            raise ValueError("co_watch, ease, popular and fresh together must be at most 1")
        return self


class ScoreWeights(BaseModel):
    """How the tasks' scores order a slate: score = watch ** watch_weight * like ** like_weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: float = 1.0
    like: float = 0.0
    diversity: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Strength of the diversity among the best, 0 for none; see `server.ranking.diversity`."""


class IndexDescription(BaseModel):
    """How the index of video vectors searches, and how well, as measured when it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact", "ivf_int8"] = "exact"
    """Every vector, or those of the nearest cells, in 8 bits a dimension."""
    cells: int = Field(default=0, ge=0)
    probes: int = Field(default=0, ge=0)
    """How many of the cells are searched; 0 where there are none."""
    neighbours: int = Field(default=0, ge=0)
    """How many nearest videos the recall is of; 0 where nothing was measured."""
    queries: int = Field(default=0, ge=0)
    """Viewers that it was measured with."""
    recall_wanted: float = Field(default=1.0, ge=0, le=1)
    recall: float = Field(default=1.0, ge=0, le=1)
    """Share of the exact nearest that the search finds."""


class Manifest(BaseModel):
    """Everything of one release; immutable once published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    release_id: str
    created_at: datetime
    dataset: str
    """Name of the data set that it was trained on."""
    code_commit: str
    architecture: str = ""
    """Processor that the goldens were made on, for example x86_64; empty where nobody noted it."""
    data_fingerprint: str
    holdout: Literal["last", "none"]
    """Whether each viewer's last watch was kept from training, so that it can be tested."""
    feature_schema: FeatureSchema
    quotas: Quotas = Quotas()
    """How training drew its candidates, and serving and evaluation therefore do."""
    index: IndexDescription = IndexDescription()
    """How the two-tower source searches."""
    precision: Precisions = Precisions()
    """Of the models."""
    score_weights: ScoreWeights
    metrics: dict[str, float]
    files: dict[str, FileEntry]
    """Path below the release's folder to what must be there; the manifest itself excepted."""

    @staticmethod
    def parse(text: bytes, source: str) -> Manifest:
        """Reads a manifest.

        Raises:
            OlderFormatError: its format version is one of an earlier build.
            ReleaseError: it isn't one, or its format version or features aren't ours; the
                message names the field and `source`.
        """
        _check_format(text, source)
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the document"
            raise ReleaseError(f"{source}: manifest field {place}: {first['msg']}") from error
        difference = manifest.feature_schema.difference()
        if difference:
            raise ReleaseError(f"{source}: feature_schema.{difference}")
        return manifest

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Reads `folder`'s manifest; raises ReleaseError where it is missing or unfit."""
        path = folder / MANIFEST_NAME
        try:
            return Manifest.parse(path.read_bytes(), str(path))
        except FileNotFoundError as error:
            raise ReleaseError(f"{path} is missing: no release there") from error

    def write(self, folder: Path) -> None:
        """Writes the manifest into `folder`."""
        (folder / MANIFEST_NAME).write_text(self.model_dump_json(indent=2) + "\n")


def _check_format(text: bytes, source: str) -> None:
    """Raises ReleaseError unless the manifest is of our format: other fields may depend on it."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ReleaseError(f"{source}: isn't a manifest: {error}") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        # A manifest that says true or 1.0 is no older one: it is damaged.
        older = type(version) is int and 0 < version < FORMAT_VERSION
        raise (OlderFormatError if older else ReleaseError)(
            f"{source}: format_version is {version}, this build serves {FORMAT_VERSION}; "
            "train the release again, or serve it with the build that it was made for"
        )


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """The entry of every file below `folder` but the manifest, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
