"""Damage to files of a release, each as a function of its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from vireo.server.releases import layout
from vireo.server.releases.tables import write_texts

Damage = Callable[[Path], object]


def table(path: str, values: Any) -> Damage:
    """Gives the release another table."""
    return lambda folder: np.save(folder / path, values)


def changed(path: str, change: Callable[[Any], Any]) -> Damage:
    """Gives the release a changed table."""
    return lambda folder: np.save(folder / path, change(np.load(folder / path)))


def texts(path: str, values: Sequence[str]) -> Damage:
    """Gives the release other texts."""
    return lambda folder: write_texts(folder / path, values)


def content(path: str, text: str) -> Damage:
    """Damage that replaces a file of the release."""
    return lambda folder: (folder / path).write_text(text)


def missing(path: str) -> Damage:
    """Damage that removes a file of the release."""
    return lambda folder: (folder / path).unlink()


def index(made: Any, vectors: Any, ids: Any = None) -> Damage:
    """Damage that replaces the index by one of these vectors."""
    made.train(vectors)
    if ids is None:
        made.add(vectors)
    else:
        made.add_with_ids(vectors, ids)
    return lambda folder: faiss.write_index(made, str(folder / layout.VIDEO_INDEX))
