"""Profiles, named training settings in a TOML file each, and what data of some size takes.

The coefficients of memory are fitted to measured peaks (bench/README.md says how), and rounded up.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.dataset
from pydantic import ConfigDict, TypeAdapter, ValidationError

from vireo.server.errors import VireoError
from vireo.training.config import RankingConfig, RetrievalConfig
from vireo.training.data.dataset import DatasetInfo
from vireo.training.data.files import is_parquet
from vireo.training.data.importing import ImportRequest

PROFILES = Path(__file__).parent / "profiles"
_GB = 1e9
_SAMPLE_BYTES = 1 << 20
REFIT_SHARE = 0.2
"""Time of the second fit as a share of the first's, as measured on ml-100k and ml-1m."""


class ProfileError(VireoError):
    """A profile is missing or has an invalid setting."""


@dataclass(frozen=True)
class Profile:
    """Settings of a training run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)


_PROFILE = TypeAdapter(Profile)


def load_profile(name: str) -> Profile:
    """Load the profile in `training/profiles/<name>.toml`, or in the file `name` if it ends so.

    Unset fields keep their defaults.

    Raises:
        ProfileError: there is no such profile, or a section, field or type is wrong; the message
            says what is allowed.
    """
    known = {path.stem: path for path in PROFILES.glob("*.toml")}
    if not name.endswith(".toml") and name not in known:
        names = ", ".join(sorted(known))
        raise ProfileError(
            f"there is no profile {name!r}; choose one of {names}, or a file NAME.toml"
        )
    path = known.get(name) or Path(name)
    try:
        sections = tomllib.loads(path.read_text())
        # As JSON, of which 1 counts as 1.0, and true never as 1.
        return _PROFILE.validate_json(json.dumps(sections, default=str), strict=True)
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise ProfileError(f"{path}: {_mistake(error)}") from error


def _mistake(error: ValidationError) -> str:
    """Return the first setting that can't be, and what is allowed."""
    first = error.errors(include_url=False)[0]
    section, *setting = map(str, first["loc"])
    place = " ".join([f"[{section}]", *setting])
    if first["type"] != "unexpected_keyword_argument":
        return f"{place} is {first['input']!r}: {first['msg']}"
    known = fields(getattr(Profile(), section) if setting else Profile)
    return f"there is no {place}; there are {', '.join(each.name for each in known)}"


@dataclass(frozen=True)
class MemoryEstimate:
    """Approximate peak memory of a command."""

    needed: int
    """Bytes."""
    free: int
    """Available memory of this machine, bytes."""

    @staticmethod
    def of(needed: float) -> MemoryEstimate:
        """Return the estimate beside what is available now."""
        return MemoryEstimate(round(needed), psutil.virtual_memory().available)

    def __str__(self) -> str:
        line = (
            f"takes about {self.needed / _GB:.1f} GB of memory, {self.free / _GB:.1f} GB are free"
        )
        return line if self.needed <= self.free else f"{line}: close other programs first"


def estimate_import(request: ImportRequest) -> tuple[str, MemoryEstimate]:
    """Return in words how much there is in the files, and what memory importing them needs.

    An unreadable file counts as empty.
    """
    interactions, videos = _rows(request.interactions), _rows(request.videos)
    viewers = _rows(request.viewers) if request.viewers else 0
    known = f"{viewers:,} viewers, " if viewers else ""
    # An upper bound for up to a million ids of each kind.
    entities, attributes = 500 * (videos + viewers), 100 * len(request.attributes) * videos
    return (
        f"about {interactions:,} interactions, {known}{videos:,} videos",
        MemoryEstimate.of(500e6 + 100 * interactions + entities + attributes),
    )


def _rows(path: Path) -> int:
    """Estimate a file's row count from its metadata or the length of its first lines."""
    try:
        if is_parquet(path):
            return int(pyarrow.dataset.dataset(path, format="parquet").count_rows())
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
        lines = sample.count(b"\n") * path.stat().st_size / max(1, len(sample))
        return max(0, round(lines) - 1)  # the header is no row
    except (OSError, pa.ArrowInvalid):
        return 0


def features_memory(info: DatasetInfo) -> MemoryEstimate:
    """Estimate the memory of building a data set's features."""
    entities = info.videos + info.viewers
    return MemoryEstimate.of(900e6 + 100 * info.interactions + 150 * entities)


def training_memory(info: DatasetInfo, profile: Profile) -> MemoryEstimate:
    """Estimate the memory of training on a data set.

    Training's phases follow each other, and each frees what it took.
    """
    # Heavy, and of no use to other commands.
    from vireo.training.evaluation.baselines import MAX_NEIGHBOURS, ItemKnnConfig
    from vireo.training.evaluation.systems import MAX_SCORES, MAX_VIEWERS
    from vireo.training.retrieval.embeddings import PAIRS, STEPS

    retrieval, ranking = profile.retrieval, profile.ranking
    videos, watches = info.videos, info.watches
    near = 60 * min(PAIRS, STEPS * watches) + 8 * videos * retrieval.dimension
    towers = 24 * videos * retrieval.dimension
    ease = 4 * videos**2 if videos <= retrieval.ease_limit else 1e9 + 1000 * videos
    ranking_set = 120 * ranking.candidates * min(info.viewers, ranking.viewers)
    tested = min(info.viewers, MAX_VIEWERS, MAX_SCORES // max(videos, 1))
    item_knn = 40 * min(ItemKnnConfig.neighbours * videos, MAX_NEIGHBOURS)
    evaluation = 100 * watches + max(90 * ranking.candidates * tested, item_knn)
    phases = (near, towers, ease, 200 * watches + ranking_set, evaluation)
    # The towers' watches, and ids and attributes of their viewers, are there all the time.
    base = 1.6e9 + 300 * videos + 450 * info.viewers + 24 * watches
    return MemoryEstimate.of(base + max(phases))


@dataclass(frozen=True)
class Size:
    """The data size up to which a profile is chosen, and its cost."""

    profile: str
    max_watches: float
    max_videos: float
    core_ms_a_watch: float
    """Core milliseconds per watch for one fit with its report, measured."""
    min_core_minutes: float
    """Core minutes of one fit of few watches, whose steps are no fewer."""


SIZES = (
    Size("demo", 200_000, float("inf"), 0.9, 3.0),
    Size("quality", 5_000_000, 50_000, 3.0, 23.0),
    Size("large", float("inf"), float("inf"), 0.3, 16.0),
)
"""The first that fits a data set is chosen."""


def choose_profile(info: DatasetInfo, *, refit: bool) -> tuple[str, str]:
    """Return the profile for a data set of this size.

    And a line for users: the choice, the reason, and the training time, of a second fit too if
    `refit`.
    """
    size = next(
        each
        for each in SIZES
        if info.watches <= each.max_watches and info.videos <= each.max_videos
    )
    minutes = max(size.min_core_minutes, info.watches * size.core_ms_a_watch / 60_000)
    minutes = max(1, round(minutes * (1 + REFIT_SHARE * refit)))
    return size.profile, (
        f"{info.name}: {info.watches:,} watches of {info.videos:,} videos, so profile "
        f"{size.profile}; about {minutes:,} minutes of one core (another by --profile)"
    )
