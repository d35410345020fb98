"""Feast's point-in-time join, with results in the order of the request."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pandas as pd
from dask.tokenize import normalize_token
from feast import FeatureStore

from server.arrays import BoolArray
from training.features.definitions import TIMESTAMP

# Dask's own way comes first, or it would replace the one below.
normalize_token.dispatch(pd.DataFrame)  # type: ignore[no-untyped-call]


@normalize_token.register(pd.DataFrame)  # type: ignore[no-untyped-call,untyped-decorator]
def _name_of(_: pd.DataFrame) -> str:
    """Return a unique token for a frame in Dask's task names.

    By default Dask hashes the contents and pickles every list for that: minutes for the profiles
    of 200,000 viewers, several times over. Any unique token works.
    """
    return uuid4().hex


def joined_at(
    store: FeatureStore, features: list[str], key: str, moments: pd.DataFrame
) -> tuple[pd.DataFrame, BoolArray]:
    """Return the latest values at or before each time, and which rows Feast returned, bool[n].

    Feast returns each (entity, time) once, in unspecified order. It omits an entity if all of its
    values are newer, and returns an unknown entity with empty values.

    Args:
        store: the repository.
        features: features to read, as "view:feature".
        key: the entity's join key, a column of `moments`.
        moments: `key` str and `event_timestamp` datetime64[us, UTC], any order, any index.
    """
    asked = moments[[key, TIMESTAMP]].reset_index(drop=True)
    if asked.empty:
        names = [feature.partition(":")[2] for feature in features]
        return asked.reindex(columns=[*asked.columns, *names]), np.zeros(0, np.bool_)
    values = store.get_historical_features(
        entity_df=asked.drop_duplicates(), features=features
    ).to_df()
    values[TIMESTAMP] = values[TIMESTAMP].astype("datetime64[us, UTC]")
    joined = asked.merge(values, how="left", on=[key, TIMESTAMP], indicator=True)
    return joined, (joined.pop("_merge") == "both").to_numpy()
