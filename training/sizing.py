"""Which profile fits a data set, and how long its training takes."""

from __future__ import annotations

from dataclasses import dataclass

from training.data.dataset import DatasetInfo
from training.data.schema import WATCH_EVENTS


@dataclass(frozen=True)
class Size:
    """Up to which size of data a profile is chosen, and what it costs."""

    profile: str
    max_watches: float
    max_videos: float
    core_ms_a_watch: float
    """Milliseconds of one core for each watch, one fit with its report, as measured."""


SIZES = (
    Size("demo", 200_000, 20_000, 0.9),
    Size("quality", 5_000_000, 50_000, 1.7),
    Size("large", float("inf"), float("inf"), 0.15),
)
"""The first that a data set fits in is chosen."""
REFIT_SHARE = 0.2
"""Time of the second fit, of the first one's, as measured on ml-100k and ml-1m."""


@dataclass(frozen=True)
class ChosenProfile:
    """The profile for a data set."""

    profile: str
    dataset: str
    watches: int
    videos: int
    core_minutes: float
    """Of one fit."""

    def described(self, refit: bool) -> str:
        """Return a line for people: what was chosen, why, and how long it takes."""
        minutes = max(1, round(self.core_minutes * (1 + REFIT_SHARE * refit)))
        return (
            f"{self.dataset}: {self.watches:,} watches of {self.videos:,} videos, so profile "
            f"{self.profile}; about {minutes:,} minutes of one core (another by --profile)"
        )


def choose_profile(info: DatasetInfo) -> ChosenProfile:
    """Return the profile for a data set of this size."""
    watches = sum(info.events.get(event, 0) for event in WATCH_EVENTS)
    size = next(
        each for each in SIZES if watches <= each.max_watches and info.videos <= each.max_videos
    )
    minutes = watches * size.core_ms_a_watch / 60_000
    return ChosenProfile(size.profile, info.name, watches, info.videos, minutes)
