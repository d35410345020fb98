"""The fallback without pods: the release's popular list, which the gateway holds itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vireo.server.features.keys import video_key
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.filters.declared import PUBLISHED, label
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.page import Caps, fill_page
from vireo.server.releases.layout import POPULAR_ATTRIBUTES, POPULAR_IDS
from vireo.server.releases.manifest import ReleaseError, first_problem
from vireo.server.releases.tables import read_texts
from vireo.v1 import rules_pb2


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
    """What filters see of each key."""

    @staticmethod
    def load(folder: Path) -> PopularList:
        """Read the list from a release's folder; raise ReleaseError if it can't be used."""
        keys = {name: video_key(name) for name in read_texts(folder, POPULAR_IDS)}
        file = folder / POPULAR_ATTRIBUTES
        try:
            attributes = _ATTRIBUTES.validate_json(file.read_bytes())
        except OSError as error:
            raise ReleaseError(f"{file}: can't be read: {error}") from error
        except ValidationError as error:
            raise ReleaseError(f"{file}: can't be read: {first_problem(error)}") from error
        if len(attributes) != len(keys):
            raise ReleaseError(f"{file}: has {len(attributes)} videos instead of {len(keys)}")
        return PopularList(keys, dict(zip(keys.values(), attributes, strict=True)))

    @cached_property
    def unpublished(self) -> dict[int, float]:
        """When those videos are published that weren't yet on first use, by key, Unix seconds."""
        now = time.time()
        times = {key: each.numbers.get(PUBLISHED, now) for key, each in self.attributes.items()}
        return {key: at for key, at in times.items() if at > now}

    def best(
        self,
        count: int,
        blocked: Set[int],
        expression: FilterExpression | None = None,
        rules: ActiveRules | None = None,
    ) -> list[str]:
        """Return the first `count` ids whose keys aren't in `blocked`.

        With a filter's `expression`, it holds for each of them. Of the site's `rules`, caps hold,
        and those of the list that they pin have their positions.
        """
        kept = (
            name
            for name, key in self.keys.items()
            if key not in blocked and (expression is None or self._meets(key, expression))
        )
        if rules is None or not (rules.pinned or rules.message.caps):
            return [*islice(kept, count)]
        names = [*kept]
        places = {name: place for place, name in enumerate(names)}
        pins = {at: places[name] for at, name in rules.pinned.items() if name in places}
        caps = Caps([(cap.max, partial(self._labels, names, cap)) for cap in rules.message.caps])
        chosen = fill_page(range(len(names)), min(count, len(names)), pins=pins, caps=caps)
        return [names[place] for place in chosen.tolist()]

    def any_meets(self, expression: FilterExpression) -> bool:
        """Return whether a filter holds for a video of the list, blocked or not."""
        return any(self._meets(key, expression) for key in self.keys.values())

    def _labels(self, names: Sequence[str], cap: rules_pb2.Cap, place: int) -> list[str]:
        """Return the labels that a cap counts of the video at a place."""
        video = self.attributes.get(self.keys[names[place]])
        if video is None:
            return []
        if cap.values:
            return [each for each in cap.values if label(cap.attribute, each) in video.labels]
        prefix = label(cap.attribute, "")
        return [each for each in video.labels if each.startswith(prefix)]

    def _meets(self, key: int, expression: FilterExpression) -> bool:
        video = self.attributes.get(key)
        return video is not None and expression.holds(video.labels, video.numbers)
