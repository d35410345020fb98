"""The fallback without pods: the release's popular list, which the gateway holds itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.features.keys import video_key
from server.filters.expression import FilterExpression
from server.releases.fields import first_problem
from server.releases.layout import POPULAR_ATTRIBUTES, POPULAR_IDS
from server.releases.manifest import ReleaseError
from server.releases.tables import read_texts


class PopularVideo(BaseModel):
    """What filters see of a popular video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: frozenset[str]
    """Each "attribute=value"."""
    numbers: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """By attribute; unknown ones are absent."""


_ATTRIBUTES = TypeAdapter(list[PopularVideo])


@dataclass(frozen=True)
class PopularList:
    """The most popular videos."""

    keys: dict[str, int]
    """Key of each id, best first."""
    attributes: Mapping[int, PopularVideo] = field(default_factory=dict)
    """What filters see of each key; empty if the release declares no attributes."""

    @staticmethod
    def load(folder: Path) -> PopularList:
        """Read the list from a release's folder; raise ReleaseError if it can't be used."""
        keys = {name: video_key(name) for name in read_texts(folder, POPULAR_IDS)}
        file = folder / POPULAR_ATTRIBUTES
        if not file.exists():
            return PopularList(keys)
        try:
            attributes = _ATTRIBUTES.validate_json(file.read_bytes())
        except ValidationError as error:
            raise ReleaseError(f"{file}: can't be read: {first_problem(error)}") from error
        if len(attributes) != len(keys):
            raise ReleaseError(f"{file}: has {len(attributes)} videos instead of {len(keys)}")
        return PopularList(keys, dict(zip(keys.values(), attributes, strict=True)))

    def best(
        self,
        count: int,
        blocked: Set[int],
        removed: Callable[[int], bool],
        expression: FilterExpression | None = None,
    ) -> list[str]:
        """Return the first `count` ids whose keys are neither in `blocked` nor removed.

        With a filter's `expression`, it holds for each of them.
        """
        kept = (
            name
            for name, key in self.keys.items()
            if key not in blocked
            and not removed(key)
            and (expression is None or self._meets(key, expression))
        )
        return [*islice(kept, count)]

    def _meets(self, key: int, expression: FilterExpression) -> bool:
        video = self.attributes.get(key)
        return video is not None and expression.holds(video.labels, video.numbers)
