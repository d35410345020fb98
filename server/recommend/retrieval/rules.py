"""The site's rules in retrieval: factors and labels of the candidates, and what filters forbid."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vireo.server.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from vireo.server.columns import MAX_FACTOR, MAX_LABELS, MIN_FACTOR
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.filters.declared import Declared, label
from vireo.server.recommend.filters.expression import (
    BadFilterError,
    FilterExpression,
    all_of,
    decode,
)
from vireo.server.recommend.filters.table import labels_of
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.v1 import rules_pb2

_CACHED = 256
"""Number of surfaces and regions whose rules are kept decoded."""


@dataclass(frozen=True)
class RetrievalRules:
    """What the site's rules ask of retrieval."""

    message: rules_pb2.SlateRules
    filters: Sequence[FilterExpression]
    """What must hold for each candidate."""
    filter: FilterExpression | None
    """All of them; None if there are none."""
    boosts: Sequence[tuple[FilterExpression | None, float]]
    """Factors of scores; None if the release doesn't declare what the rule is about."""
    pinned_keys: Int64Array
    """Keys of videos that are candidates if the query allows them, int64[p]."""

    @property
    def expressions(self) -> list[FilterExpression]:
        """What it asks of single videos: the boosts' filters, and its own if they are counted."""
        boosts = [expression for expression, _ in self.boosts if expression is not None]
        return [*boosts, *(self.filters if self.message.counts else ())]


def retrieval_rules(message: rules_pb2.SlateRules, declared: Declared) -> RetrievalRules:
    """Return what rules ask of a release that declares these attributes.

    Raises:
        BadFilterError: a filter can't be applied to it. Boosts that can't be are left out.
    """
    return _decoded(message.SerializeToString(deterministic=True), declared)


@lru_cache(_CACHED)
def _decoded(serialized: bytes, declared: Declared) -> RetrievalRules:
    message = rules_pb2.SlateRules.FromString(serialized)
    filters = [
        decode(each, f"rules.filters[{place}]", declared)
        for place, each in enumerate(message.filters)
    ]
    boosts: list[tuple[FilterExpression | None, float]] = []
    for each in message.boosts:
        try:
            expression = decode(each.filter, "", declared)
        except BadFilterError:
            expression = None
        boosts.append((expression, each.factor))
    pinned = np.array([pin.key for pin in message.pins], np.int64)
    return RetrievalRules(message, filters, all_of(filters) if filters else None, boosts, pinned)


async def labels_made(rules: RetrievalRules, release: CandidateRelease) -> None:
    """Make the labels that caps count, in a thread: for a large catalogue they take long."""
    for attribute in {cap.attribute for cap in rules.message.caps} & {*release.declared.labels}:
        if not release.forward.has(attribute):
            await asyncio.to_thread(release.forward.make, attribute)


def rule_columns(
    rules: RetrievalRules,
    release: CandidateRelease,
    found: Candidates,
    shown: Sequence[int] = (),
) -> rules_pb2.RuleColumns:
    """Return what rules say of retrieved candidates of a release.

    `shown` are the keys of the videos of the pages before, whose labels caps count.
    """
    message = rules.message
    factors, boosted = _factors(rules.boosts, release, found)
    keys = np.array(shown, np.int64)
    rows = release.find(keys)
    known = rows >= 0
    before = Candidates(keys[known], rows[known], np.zeros(np.count_nonzero(known), np.uint32))
    columns = rules_pb2.RuleColumns(
        factors=[] if factors is None else factors.tolist(),
        labels=[_label_column(cap, release, found, before) for cap in message.caps],
    )
    if message.counts:
        columns.boosted.extend(boosted)
        count = len(release.keys)
        for each in rules.filters:
            applied = release.filters.apply(each, searched=False)
            columns.forbidden.append(round((1 - applied.share) * count))
    return columns


def _factors(
    boosts: Sequence[tuple[FilterExpression | None, float]],
    release: CandidateRelease,
    found: Candidates,
) -> tuple[Float32Array | None, list[int]]:
    """Return the factor of each candidate, float32[n], and how many each boost is for."""
    if not boosts:
        return None, []
    factors, boosted = np.ones(len(found)), []
    for expression, factor in boosts:
        held = np.zeros(len(found), np.bool_)
        if expression is not None:
            held = release.filters.apply(expression, searched=False).holds(found.rows)
        boosted.append(int(np.count_nonzero(held)))
        factors[held] *= factor
    if not any(boosted):
        return None, boosted
    return factors.clip(MIN_FACTOR, MAX_FACTOR).astype(np.float32), boosted


def _label_column(
    cap: rules_pb2.Cap, release: CandidateRelease, candidates: Candidates, before: Candidates
) -> rules_pb2.LabelColumn:
    """Return the labels that a cap counts of each candidate; none if they aren't declared.

    And those of the videos of the pages before.
    """
    count = len(candidates)
    if cap.attribute not in release.declared.labels:
        return rules_pb2.LabelColumn(counts=[0] * count)
    plain = Candidates(candidates.keys, candidates.rows, candidates.source_masks)
    found = Candidates.concatenate([plain, before])
    known = found.rows < len(release.keys)
    lists = release.forward.labels_of(np.where(known, found.rows, 0), cap.attribute)
    further: dict[str, int] = {}
    live = {} if release.live is None else release.live.places
    for place in _changed(live, found, known):
        video = release.changed_video(int(found.rows[place]))
        texts = [] if video is None else labels_of(video, release.declared)
        lists[place] = _numbers(texts, cap.attribute, release, further)
    if cap.values:
        texts = [label(cap.attribute, value) for value in cap.values]
        counted = _numbers(texts, cap.attribute, release, further)
        lists = [each[np.isin(each, counted)] if len(each) else each for each in lists]
    lists = [each[:MAX_LABELS] for each in lists]
    # Small numbers need fewer bytes.
    _, labels = np.unique(np.concatenate([*lists, np.empty(0, np.int32)]), return_inverse=True)
    counts = [len(each) for each in lists[:count]]
    ends = sum(counts)
    return rules_pb2.LabelColumn(
        counts=counts, labels=labels[:ends].tolist(), shown=labels[ends:].tolist()
    )


def _changed(live: Mapping[int, int], found: Candidates, known: BoolArray) -> list[int]:
    """Return the places of candidates whose labels aren't those of the release."""
    if not live:
        return []
    return [
        place
        for place, (key, own) in enumerate(zip(found.keys.tolist(), known.tolist(), strict=True))
        if not own or key in live
    ]


def _numbers(
    texts: Iterable[str], attribute: str, release: CandidateRelease, further: dict[str, int]
) -> Int32Array:
    """Return the numbers of those of some labels that are of an attribute.

    Labels that the release doesn't have get numbers from `further`, below 0.
    """
    prefix, numbers = label(attribute, ""), []
    for text in {*texts}:
        if text.startswith(prefix):
            place = release.forward.table.place(text)
            numbers.append(place if place >= 0 else further.setdefault(text, -1 - len(further)))
    return np.array(numbers, np.int32)
