"""The ranking set on disk, so that an interrupted run needn't retrieve candidates again."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vireo.server.signals import OUTCOMES
from vireo.training.ranking.training_set import OutcomeLabels, RankingSet, ViewerColumns, WatchLists


def save_ranking_set(path: Path, data: RankingSet, fingerprint: str) -> None:
    """Write the set to `path` atomically."""
    arrays = {"fingerprint": np.array(fingerprint)}
    for part, value in (("watches", data.watches), ("outcomes", data.outcomes)):
        columns = vars(value) | vars(value.viewers)
        arrays |= {f"{part}/{name}": column for name, column in columns.items()}
        del arrays[f"{part}/viewers"]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def load_ranking_set(path: Path, fingerprint: str) -> RankingSet | None:
    """Return the set at `path`; None if it is missing, damaged, or of another fingerprint."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = dict(file)
    except (OSError, ValueError, BadZipFile):
        return None  # The file is only a cache: the set is built again.
    if str(arrays["fingerprint"]) != fingerprint:
        return None
    if arrays["outcomes/labels"].shape[1] != len(OUTCOMES):
        return None  # Earlier builds knew fewer outcomes.

    def of(kind: type[Any], part: str, **known: ViewerColumns) -> Any:
        names = [field.name for field in fields(kind) if field.name not in known]
        return kind(**{name: arrays[f"{part}/{name}"] for name in names}, **known)

    try:
        return RankingSet(
            of(WatchLists, "watches", viewers=of(ViewerColumns, "watches")),
            of(OutcomeLabels, "outcomes", viewers=of(ViewerColumns, "outcomes")),
        )
    except KeyError:
        return None  # Earlier builds wrote other arrays.
