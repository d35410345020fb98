"""The ranking set on disk, so that an interrupted run needn't retrieve candidates again."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from training.ranking.training_set import OutcomeLabels, RankingSet, ViewerColumns, WatchLists

_SERVED = "served_features"


def save_ranking_set(path: Path, data: RankingSet, fingerprint: str) -> None:
    """Write the set to `path` atomically."""
    arrays = {"fingerprint": np.array(fingerprint), _SERVED: data.served_features}
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
    names = ("outcomes/labels", "outcomes/context")
    if str(arrays["fingerprint"]) != fingerprint or not arrays.keys() >= set(names):
        return None  # Earlier builds wrote other arrays.
    watches, outcomes = (
        {
            name.removeprefix(f"{part}/"): array
            for name, array in arrays.items()
            if name.startswith(f"{part}/")
        }
        for part in ("watches", "outcomes")
    )
    fields = ViewerColumns.__dataclass_fields__
    for columns in (watches, outcomes):
        own = {name: columns.pop(name) for name in fields}
        columns["viewers"] = ViewerColumns(**own)
    return RankingSet(WatchLists(**watches), OutcomeLabels(**outcomes), arrays[_SERVED])
