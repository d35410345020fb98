"""A release's manifest: the one file that pins everything that is served together.

Its fields, and those of channels, are checked when a document is parsed, and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pydantic_core
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)

from vireo.server import signals
from vireo.server.arrays import Float32Array
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
from vireo.server.home import DATASET_NAME

# Names become parts of paths and object names, and numbers reach every request: values that a
# reader couldn't handle are refused here, once, when the document is parsed.
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
Share = Annotated[float, Field(ge=0, le=1)]
TaskWeight = Annotated[float, Field(ge=0, le=100)]
"""Exponent of a probability: a negative one would make 0 infinite."""
_DIVERSITY, _FATIGUE = "diversity", "fatigue"

FORMAT_VERSION = 5
MANIFEST_NAME = "manifest.json"
MAX_DOCUMENT_BYTES = 1 << 20
"""Maximum bytes of a manifest or channel, which are read whole; ours have about 10,000."""
EASE_RECENCY = 3
"""What the last watch counts in EASE's score beside the 1 of every watch."""
CANDIDATES = 300
"""Candidates in a ranker's training lists and requests, unless a profile sets another number."""
MAX_CANDIDATES = 2000
"""Maximum candidates that pods rank."""

DATA_END = "data.end_timestamp"
"""Metric of a release: when the last interaction of its data set took place, Unix seconds."""

_TASKS = tuple(task.name for task in signals.TASKS)
_CONTEXT = {feature.name for feature in CONTEXT}
_REQUIRED = {task.name for task in signals.TASKS if not task.optional}
_LISTS = ("retrieval_features", "tasks", "video_features", "match_features", "viewer_features")
"""Lists of a schema, in the order in which they are compared."""
Labels = Annotated[tuple[Label, ...], Field(max_length=256)]
REMEDY = "train the release again, or serve it with the build that it was made for"


class ReleaseError(VireoError):
    """A release that can't be served; the message names the file or field and why."""


class OlderFormatError(ReleaseError):
    """A release in a format of earlier builds."""


def parse_json(text: bytes) -> Any:
    """Return the JSON document in `text`.

    Raises:
        ValueError: it is too long, isn't JSON, has a number that isn't finite, or is nested too
            deeply.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"has more than {MAX_DOCUMENT_BYTES:,} bytes")
    return pydantic_core.from_json(text, allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """Return the first unfit field of a document and what is wrong with it, on one short line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the document"
    if first["type"] == "extra_forbidden":
        return f"{shown(place)} isn't known to this build; a newer one may have written it"
    return f"{shown(place)}: {shown(first['msg'])}"


def shown(text: str) -> str:
    """Return a document's text as it may stand in an error: one line, printable, bounded."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _of_every_source(shares: dict[str, float]) -> dict[str, float]:
    """Return the share of every source that has a quota, its default if it isn't given."""
    declared = {each.name: each.quota for each in signals.SOURCES if each.quota is not None}
    _refuse_others(shares, declared, "source with a quota")
    every = {name: shares.get(name, quota) for name, quota in declared.items()}
    if sum(every.values()) > 1:
        raise ValueError(f"{', '.join(every)} together must be at most 1")
    return every


def _of_every_task(weights: dict[str, float]) -> dict[str, float]:
    """Return the weight of every task, its default if it isn't given, and the diversity.

    Fatigue or an optional task, if it isn't given, has none: earlier builds don't know it.
    """
    declared = {each.name: each.weight for each in signals.TASKS} | {_DIVERSITY: 0.0, _FATIGUE: 0.0}
    _refuse_others(weights, declared, "task")
    left_out = {_FATIGUE, *(each.name for each in signals.TASKS if each.optional)} - weights.keys()
    return {name: each for name, each in declared.items() if name not in left_out} | weights


def _refuse_others(given: Mapping[str, float], names: Iterable[str], kind: str) -> None:
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]} is no {kind}; those are {', '.join(names)}")


_Shares = Annotated[dict[Label, Share], AfterValidator(_of_every_source)]
_Weights = Annotated[dict[Label, TaskWeight], AfterValidator(_of_every_task)]


class Quotas(RootModel[_Shares]):
    """Shares of the candidates kept for the best of each source; two-tower gets the remainder.

    Training fits them to validation, see `vireo.training.evaluation.choices`. Fresh videos lower
    recall, and get a few places nonetheless, or they would never be watched.
    """

    model_config = ConfigDict(frozen=True, validate_default=True)
    root: _Shares = Field(default={})


class ScoreWeights(RootModel[_Weights]):
    """Exponent of each task's probability in the score of a slate, `diversity` and `fatigue`."""

    model_config = ConfigDict(frozen=True, validate_default=True)
    root: _Weights = Field(default={})

    @property
    def diversity(self) -> float:
        """Strength of the diversity re-ranking, 0 for none; see `diverse_order`."""
        return self.root[_DIVERSITY]

    def with_diversity(self, strength: float) -> ScoreWeights:
        """Return these weights with another diversity."""
        return ScoreWeights({**self.root, _DIVERSITY: strength})

    @property
    def fatigue(self) -> float:
        """How much the score of a video falls that was shown and not played, 0 for not at all."""
        return self.root.get(_FATIGUE, 0.0)

    def combined(self, tasks: Mapping[str, Float32Array]) -> Float32Array:
        """Return the product of the tasks' probabilities, each to the power of its weight.

        An unwanted task counts as 1 minus its probability.
        """
        wanted: dict[str, Float32Array] = {
            # Rounding may exceed 1.
            name: np.maximum(1 - values, 0) if name in signals.UNWANTED else values
            for name, values in tasks.items()
        }
        powers = [values ** self.root.get(name, 0.0) for name, values in wanted.items()]
        return reduce(np.multiply, powers)


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
    ease_recency: float = Field(ge=0, le=100)
    """What the last watch counts in EASE's score beside the 1 of every watch."""
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
        reads_language = languages and "language" in context
        return FeatureSchema(
            video_features=VIDEO_FEATURES,
            retrieval_features=RETRIEVAL_FEATURES,
            match_features=(*MATCH_FEATURES, LANGUAGE_MATCH) if reads_language else MATCH_FEATURES,
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
        known = tuple(name for name in self.context_features if name in _CONTEXT)
        tasks = tuple(each for each in _TASKS if each in self.tasks or each in _REQUIRED)
        ours = FeatureSchema.ours(
            self.history_limit, self.vector_size, known, languages=self.languages
        ).model_copy(update={"tasks": tasks})
        for name in _LISTS:
            given, mine = getattr(self, name), getattr(ours, name)
            unknown = [each for each in given if each not in mine]
            if unknown:
                return f"{name} names {shown(', '.join(unknown))}, which this build lacks"
            missing = [each for each in mine if each not in given]
            if missing:
                return f"{name} lacks {', '.join(missing)}, which this build has"
            if given != mine:
                return f"{name} is {list(given)}, this build's order is {list(mine)}"
        for name in ("context_features", "constants"):
            theirs, own = getattr(self, name), getattr(ours, name)
            for key in sorted(theirs.keys() | own.keys()):
                if theirs.get(key) != own.get(key):
                    given_value = f"{name}[{shown(key)}] is {theirs.get(key)}"
                    return f"{given_value}, this build has {own.get(key)}"
        return ""


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
            document = parse_json(text)
        except ValueError as error:
            raise ReleaseError(f"{source}: isn't a manifest: {shown(str(error))}") from error
        _check_format(document, source)
        try:
            # First: other fields are by the names of its sources and tasks.
            pinned = _Pinned.model_validate(document).feature_schema
        except ValidationError as error:
            problem = first_problem(error)
            raise ReleaseError(f"{source}: manifest field {problem}; {REMEDY}") from error
        if difference := pinned.difference():
            raise ReleaseError(f"{source}: feature_schema.{difference}; {REMEDY}")
        try:
            return Manifest.model_validate(document)
        except ValidationError as error:
            raise ReleaseError(f"{source}: manifest field {first_problem(error)}") from error

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Return `folder`'s manifest; raise ReleaseError if it is missing or unfit."""
        path = folder / MANIFEST_NAME
        try:
            with path.open("rb") as file:
                text = file.read(MAX_DOCUMENT_BYTES + 1)
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
            f"{FORMAT_VERSION}; {REMEDY}"
        )


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Return the entry of every file below `folder` except its manifest, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST_NAME
    }
