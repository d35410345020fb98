"""Content of a video, that is all that is known besides its id, as a bag of tokens."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from vireo.server.arrays import Int32Array

CONTENT_LIMIT = 24
"""Maximum tokens of a video that a model reads; further ones are ignored."""
TAGS_FIRST = 8
"""Tags that come before a video's other tokens."""


class _WordCharacters(dict[int, int | str]):
    """Translation of letters, digits, combining marks and underscores to themselves, else a space.

    Python's word characters lack combining marks, without which words of Indic scripts fall apart.
    Joiners and other format characters are left out.
    """

    def __missing__(self, code: int) -> int | str:
        category = unicodedata.category(chr(code))
        within = category[0] in "LMN" or chr(code) == "_"
        self[code] = code if within else "" if category == "Cf" else " "
        return self[code]


_WORD_CHARACTERS = _WordCharacters()
_UNSPACED = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
_UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese, which put no spaces between words."""
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED} ]+")


def title_words(title: str) -> list[str]:
    """Return the words of a title in lower case; of scripts without spaces, pairs of characters.

    A character is a letter with its combining marks. Compatibility variants, such as full-width
    letters, are the same word (NFKC).
    """
    text = unicodedata.normalize("NFKC", title).lower()
    words: list[str] = []
    for run in _RUNS.finditer(text.translate(_WORD_CHARACTERS)):
        words += _pairs(run[0]) if run[1] else [run[0]]
    return words


def _pairs(run: str) -> list[str]:
    characters: list[str] = []
    for letter in run:
        if characters and unicodedata.category(letter)[0] == "M":
            characters[-1] += letter
        else:
            characters.append(letter)
    return [one + other for one, other in pairwise(characters)] or characters


def content_tokens(
    title: str,
    tags: Iterable[str],
    year: int | None,
    duration: float | None,
    creator: str | None = None,
) -> list[str]:
    """Return the distinct tokens of one video, the most informative kinds first.

    Args:
        title: its words are tokens; see `title_words`.
        tags: one token each; those beyond TAGS_FIRST come last, or many would leave no room for
            words.
        year: of publication; the year and its decade are tokens.
        duration: seconds; a token for each half power of two.
        creator: who made it, a token; None or empty if unknown.
    """
    labels = [f"tag={tag}" for tag in dict.fromkeys(tags)]
    tokens = labels[:TAGS_FIRST]
    if year is not None:
        tokens += [f"decade={year // 10}", f"year={year}"]
    if duration is not None and duration > 0:
        tokens.append(f"duration={round(2 * math.log2(duration))}")
    if creator:
        tokens.append(f"creator={creator}")
    tokens += [f"word={word}" for word in title_words(title)] + labels[TAGS_FIRST:]
    # Many videos share a token, so interning saves memory.
    return [sys.intern(token) for token in dict.fromkeys(tokens)]


def content_ids(bags: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> Int32Array:
    """Return ids of the known tokens of each video, 0-padded, int32[n, CONTENT_LIMIT]."""
    ids = np.zeros((len(bags), CONTENT_LIMIT), np.int32)
    for row, bag in enumerate(bags):
        known = [vocabulary[token] for token in bag if token in vocabulary][:CONTENT_LIMIT]
        ids[row, : len(known)] = known
    return ids
