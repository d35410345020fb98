"""Reads a release's tables, mapped into memory so that the pods of a machine share them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from server.releases.manifest import ReleaseError

_TEXTS = TypeAdapter(list[str])
_NUMBERS = TypeAdapter(dict[str, int])


def read_table(
    folder: Path, path: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """The .npy table at `path` below `folder`, read-only and mapped.

    Raises:
        ReleaseError: it can't be read, or its dtype or shape (None: any) is another.
    """
    file = folder / path
    try:
        # A plain view of the mapping: np.memmap itself is slow to index.
        table = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{file}: can't be read as a table: {error}") from error
    fits = len(table.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, table.shape, strict=True)
    )
    if table.dtype != np.dtype(dtype) or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ReleaseError(
            f"{file}: is {table.dtype}{list(table.shape)}, not {np.dtype(dtype)}[{wanted}]"
        )
    if table.dtype.kind == "f" and not np.isfinite(table).all():
        raise ReleaseError(f"{file}: has values that aren't finite")
    return table


def read_texts(folder: Path, path: str, count: int) -> list[str]:
    """The JSON list of `count` texts at `path` below `folder`; raises ReleaseError if not."""
    texts: list[str] = _read_json(folder / path, _TEXTS)
    if len(texts) != count:
        raise ReleaseError(f"{folder / path}: has {len(texts)} texts for {count} videos")
    return texts


def read_vocabulary(folder: Path, path: str) -> dict[str, int]:
    """The JSON object of text to number at `path` below `folder`; raises ReleaseError if not."""
    vocabulary: dict[str, int] = _read_json(folder / path, _NUMBERS)
    return vocabulary


def _read_json(file: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_python(json.loads(file.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise ReleaseError(f"{file}: can't be read: {error}") from error
