"""Profiles: named training settings, one TOML file each."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from vireo.server.errors import VireoError
from vireo.training.ranking.config import RankingConfig
from vireo.training.retrieval.config import RetrievalConfig

PROFILES = Path(__file__).parent / "profiles"
Config = TypeVar("Config", RetrievalConfig, RankingConfig)


class ProfileError(VireoError):
    """A profile is missing or has an invalid setting."""


@dataclass(frozen=True)
class Profile:
    """Settings of a training run."""

    retrieval: RetrievalConfig
    ranking: RankingConfig


def load_profile(name: str) -> Profile:
    """Load the profile in `training/profiles/<name>.toml`, or in the file `name` if it ends so.

    Unset fields keep their defaults.

    Raises:
        ProfileError: there is no such profile, or a section, field or type is wrong; the message
            says what is allowed.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    known = sorted(path.stem for path in PROFILES.glob("*.toml"))
    if name not in known:
        raise ProfileError(
            f"there is no profile {name!r}; choose one of {', '.join(known)}, or a file NAME.toml"
        )
    return read_profile(PROFILES / f"{name}.toml")


def read_profile(path: Path) -> Profile:
    """Load the profile in the file at `path`; raises the same errors as `load_profile`."""
    try:
        sections = tomllib.loads(path.read_text())
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: not TOML: {error}") from error
    allowed = [each.name for each in fields(Profile)]
    for section in sections:
        if section not in allowed:
            raise ProfileError(f"{path}: unknown section [{section}]; there are {_listed(allowed)}")
    return Profile(
        retrieval=_config(path, "retrieval", RetrievalConfig, sections),
        ranking=_config(path, "ranking", RankingConfig, sections),
    )


def _config(path: Path, section: str, kind: type[Config], sections: dict[str, Any]) -> Config:
    types = get_type_hints(kind)
    values = sections.get(section, {})
    if not isinstance(values, dict):
        raise ProfileError(f"{path}: [{section}] must be a section of settings, not {values!r}")
    for name, value in values.items():
        if name not in types:
            raise ProfileError(
                f"{path}: [{section}] has no setting {name!r}; there are {_listed(list(types))}"
            )
        if not _fits(value, types[name]):
            wanted = getattr(types[name], "__name__", types[name])  # unions have no name
            raise ProfileError(f"{path}: [{section}] {name} is {value!r}, which isn't {wanted}")
    return kind(**values)


def _fits(value: object, wanted: Any) -> bool:
    """Return whether a TOML value has a field's type; 1 counts as 1.0, true never as 1."""
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted) or (isinstance(value, int) and isinstance(0.0, wanted))


def _listed(names: list[str]) -> str:
    return ", ".join(names)
