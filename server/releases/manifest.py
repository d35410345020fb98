"""A release's manifest: the one file that pins everything that is served together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vireo.server import signals
from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN, StoredPosition
from vireo.server.features.context import CONTEXT, sizes
from vireo.server.features.model_inputs import (
    LANGUAGE_MATCH,
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
    feature_constants,
)
from vireo.server.releases.fields import (
    Count,
    DatasetName,
    FilePath,
    FileSize,
    Label,
    ReleaseId,
    Sha256,
    Time,
    Word,
    first_problem,
    parse_json,
    shown,
)
from vireo.server.releases.weights import Quotas, ScoreWeights, Share

FORMAT_VERSION = 5
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
"""Ours have about 10,000 bytes."""
EASE_RECENCY = 3
"""What the last watch counts in EASE's score beside the 1 of every watch."""
CANDIDATES = 300
"""Candidates in a ranker's training lists and requests, unless a profile sets another number."""
MAX_CANDIDATES = 2000
"""Maximum candidates that pods rank."""

DATA_END = "data.end_timestamp"
"""Metric of a release: when the last interaction of its data set took place, Unix seconds."""

_TASKS = tuple(task.name for task in signals.TASKS)
_REQUIRED = {task.name for task in signals.TASKS if not task.optional}
Labels = Annotated[tuple[Label, ...], Field(max_length=256)]
_REMEDY = "train the release again, or serve it with the build that it was made for"


class ReleaseError(VireoError):
    """A release that can't be served; the message names the file or field and why."""


class OlderFormatError(ReleaseError):
    """A release in a format of earlier builds."""


class _Part(BaseModel):
    """A part of a manifest: immutable, every field known, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Part):
    """Size in bytes and lower-case hexadecimal SHA-256 of one file of a release."""

    size: FileSize
    sha256: Sha256

    @staticmethod
    def of(path: Path) -> FileEntry:
        """Return the entry that describes the file at `path` as it is."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(size=path.stat().st_size, sha256=digest)


class FeatureSchema(_Part):
    """Names of what a release's models read and predict, in their order.

    `retrieval_features` are the scores and sources of `vireo.server.signals`.
    """

    video_features: Labels
    retrieval_features: Labels
    match_features: Labels
    viewer_features: Labels
    context_features: dict[Label, int] = Field(
        default={}, max_length=64, exclude_if=lambda features: not features
    )
    """Number of ids of each context feature that the models read, in order; empty if they read
    none, as of data without context: then what requests say of theirs is ignored."""
    tasks: Labels
    """Outputs of the ranker, some of `signals.TASKS` in their order."""
    history_limit: int = Field(ge=1, le=10_000)
    """Number of last watched videos that the viewer tower reads."""
    vector_size: int = Field(ge=1, le=4096)
    """Dimensions of the viewer and video embeddings."""
    ease_recency: float = Field(default=0, ge=0, le=100, exclude_if=lambda recency: not recency)
    """What the last watch counts in EASE's score beside the 1 of every watch: EASE_RECENCY, and 0
    in releases of earlier builds, whose rankers learnt the score without it."""
    constants: dict[Label, float] = Field(max_length=256)
    """Numbers that define the features; see `vireo.server.features.model_inputs`."""

    @staticmethod
    def ours(
        history_limit: int,
        vector_size: int,
        context: Sequence[str] = (),
        *,
        languages: bool = False,
    ) -> FeatureSchema:
        """Return the schema of this build, for models of these sizes.

        Args:
            history_limit: number of last watched videos that the viewer tower reads.
            vector_size: dimensions of the embeddings.
            context: the context features that the models read.
            languages: whether the release has the languages of its videos.
        """
        return FeatureSchema(
            video_features=VIDEO_FEATURES,
            retrieval_features=RETRIEVAL_FEATURES,
            match_features=match_features(context, languages=languages),
            viewer_features=VIEWER_FEATURES,
            context_features=dict(zip(context, sizes(context), strict=True)),
            tasks=_TASKS,
            history_limit=history_limit,
            vector_size=vector_size,
            ease_recency=EASE_RECENCY,
            constants=feature_constants(),
        )

    @property
    def languages(self) -> bool:
        """Whether the release has the languages of its videos, which the ranker reads."""
        return LANGUAGE_MATCH in self.match_features

    def difference(self) -> str:
        """Return the first field that differs from this build's schema; empty if none does."""
        for name, ours in (
            ("retrieval_features", RETRIEVAL_FEATURES),
            ("tasks", tuple(each for each in _TASKS if each in self.tasks or each in _REQUIRED)),
            ("video_features", VIDEO_FEATURES),
            (
                "match_features",
                match_features(tuple(self.context_features), languages=self.languages),
            ),
            ("viewer_features", VIEWER_FEATURES),
        ):
            given: tuple[str, ...] = getattr(self, name)
            unknown = [each for each in given if each not in ours]
            if unknown:
                return f"{name} names {shown(', '.join(unknown))}, which this build lacks"
            missing = [each for each in ours if each not in given]
            if missing:
                return f"{name} lacks {', '.join(missing)}, which this build has"
            if given != ours:
                return f"{name} is {list(given)}, this build's order is {list(ours)}"
        known = {feature.name: feature.size for feature in CONTEXT}
        for name, size in self.context_features.items():
            if name not in known:
                return f"context_features names {shown(name)}, which this build lacks"
            if size != known[name]:
                return f"context_features[{name}] is {size}, this build has {known[name]} ids"
        constants = feature_constants()
        for name in sorted(self.constants.keys() | constants.keys()):
            theirs, mine = self.constants.get(name), constants.get(name)
            if theirs != mine:
                return f"constants[{shown(name)}] is {theirs}, this build computes with {mine}"
        return ""


def match_features(context: Sequence[str], *, languages: bool) -> tuple[str, ...]:
    """Return the match features of a release that reads this context."""
    return (
        (*MATCH_FEATURES, LANGUAGE_MATCH) if languages and "language" in context else MATCH_FEATURES
    )


class _Pinned(BaseModel):
    """The part of a manifest that says whether this build can serve the release."""

    feature_schema: FeatureSchema


class IndexDescription(_Part):
    """How the index of video vectors searches, and how well, as measured when it was built."""

    kind: Literal["exact", "ivf_int8"] = "exact"
    """Every vector, or those of the nearest cells, in 8 bits a dimension."""
    cells: Count = 0
    probes: Count = 0
    """Number of cells that are searched; 0 without cells."""
    neighbours: Count = 0
    """k of recall@k; 0 if it wasn't measured."""
    queries: Count = 0
    """Number of viewers that it was measured with."""
    recall_wanted: Share = 1.0
    recall: Share = 1.0
    """Share of the exact nearest neighbours that the search finds."""

    @model_validator(mode="after")
    def _probes_within_cells(self) -> IndexDescription:
        if self.cells and self.probes > self.cells:
            raise ValueError("probes must be at most cells")
        return self


class Manifest(_Part):
    """Everything of one release; immutable once published."""

    format_version: int = FORMAT_VERSION
    release_id: ReleaseId
    created_at: Time
    dataset: DatasetName
    """Name of the data set that it was trained on."""
    code_commit: Word
    architecture: Word = ""
    """Processor that the goldens were made on, for example x86_64; empty if unknown."""
    data_fingerprint: Word
    holdout: Literal["last", "none"]
    """Whether each viewer's last watch was held out of training, for testing."""
    measured: ReleaseId | Literal[""] = ""
    """The measured twin, a whole release below `layout.MEASURED`, whose metrics these are: fitted
    alike but without the held-out watches. Empty if this release was measured itself."""
    feature_schema: FeatureSchema
    quotas: Quotas = Quotas()
    """How training chose its candidates, and so serving and evaluation do too."""
    candidates: int = Field(default=CANDIDATES, ge=1, le=MAX_CANDIDATES)
    """Length of the ranker's training lists, which its probabilities depend on."""
    catalog_log_position: StoredPosition = Field(
        default=BEGIN, exclude_if=lambda each: each == BEGIN
    )
    """Position in the log of the catalogue's changes up to which the data set has them."""
    catalog_position: int = Field(default=0, ge=0, exclude_if=lambda _: True)
    """The same in an unknown log, as the build before wrote it: read, and not used."""
    index: IndexDescription = IndexDescription()
    """How the two-tower source searches."""
    score_weights: ScoreWeights
    metrics: dict[Label, float] = Field(max_length=1000)
    files: dict[FilePath, FileEntry] = Field(max_length=1000)
    """Entry of every file, by path below the release's folder; the manifest itself excepted."""

    @model_validator(mode="after")
    def _files_have_places_of_their_own(self) -> Manifest:
        folders = {str(folder) for path in self.files for folder in PurePosixPath(path).parents}
        for path in self.files:
            if path == MANIFEST_NAME or path in folders:
                raise ValueError(f"files has {shown(path)}, which is the manifest or a folder")
        return self

    @staticmethod
    def parse(text: bytes, source: str) -> Manifest:
        """Parse a manifest.

        Raises:
            OlderFormatError: its format version is that of an earlier build.
            ReleaseError: it isn't a manifest, or its format version or features aren't this
                build's; the message names the field and `source`.
        """
        try:
            document = parse_json(text, MAX_MANIFEST_BYTES)
        except ValueError as error:
            raise ReleaseError(f"{source}: isn't a manifest: {shown(str(error))}") from error
        _check_format(document, source)
        try:
            # First: other fields are by the names of its sources and tasks.
            difference = _Pinned.model_validate(document).feature_schema.difference()
            if difference:
                raise ReleaseError(f"{source}: feature_schema.{difference}; {_REMEDY}")
            return Manifest.model_validate(document)
        except ValidationError as error:
            raise ReleaseError(f"{source}: manifest field {first_problem(error)}") from error

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Return `folder`'s manifest; raise ReleaseError if it is missing or unfit."""
        path = folder / MANIFEST_NAME
        try:
            with path.open("rb") as file:
                text = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError as error:
            raise ReleaseError(f"{path} is missing: no release there") from error
        except OSError as error:
            raise ReleaseError(f"{path} can't be read: {error.strerror}") from error
        return Manifest.parse(text, str(path))

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`."""
        (folder / MANIFEST_NAME).write_text(self.model_dump_json(indent=2) + "\n")


def _check_format(document: Any, source: str) -> None:
    """Raise ReleaseError unless the manifest has our format: other fields may depend on it."""
    version = document.get("format_version") if isinstance(document, dict) else None
    # True and 4.0 equal integers, but only a damaged manifest has them.
    if type(version) is not int or version != FORMAT_VERSION:
        older = type(version) is int and 0 < version < FORMAT_VERSION
        raise (OlderFormatError if older else ReleaseError)(
            f"{source}: format_version is {shown(repr(version))}, this build serves "
            f"{FORMAT_VERSION}; {_REMEDY}"
        )


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Return the entry of every file below `folder` except its manifest, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST_NAME
    }
