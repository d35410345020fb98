"""Choice of a profile by the number of watches, and its estimated training time."""

from __future__ import annotations

from dataclasses import dataclass

from vireo.training.data.dataset import DatasetInfo

REFIT_SHARE = 0.2
"""Time of the second fit as a share of the first's, as measured on ml-100k and ml-1m."""


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


@dataclass(frozen=True)
class ChosenProfile:
    """The profile for a data set."""

    profile: str
    dataset: str
    watches: int
    videos: int
    core_minutes: float
    """Core minutes of one fit."""

    def described(self, refit: bool) -> str:
        """Return one line for users: the choice, the reason, and the training time."""
        minutes = max(1, round(self.core_minutes * (1 + REFIT_SHARE * refit)))
        return (
            f"{self.dataset}: {self.watches:,} watches of {self.videos:,} videos, so profile "
            f"{self.profile}; about {minutes:,} minutes of one core (another by --profile)"
        )


def choose_profile(info: DatasetInfo) -> ChosenProfile:
    """Return the profile for a data set of this size."""
    size = next(
        each
        for each in SIZES
        if info.watches <= each.max_watches and info.videos <= each.max_videos
    )
    minutes = max(size.min_core_minutes, info.watches * size.core_ms_a_watch / 60_000)
    return ChosenProfile(size.profile, info.name, info.watches, info.videos, minutes)
