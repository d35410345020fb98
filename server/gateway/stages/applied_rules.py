"""Explains which of the site's rules applied to a slate."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.v1 import candidate_pb2, ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import SOURCE_NEW

from server.gateway.rules import ActiveRules


def applied_rules(
    rules: ActiveRules,
    slate: pb.RecommendResponse,
    candidates: candidate_pb2.RetrieveCandidatesResponse | None,
    ranked: ranking_pb2.RankCandidatesResponse | None,
) -> Iterator[pb.AppliedRule]:
    """Yield each rule with the number of videos that it concerned, 0 if its stage failed.

    Args:
        rules: the slate's.
        slate: what it became.
        candidates: what retrieval answered; None if it failed.
        ranked: what ranking answered; None if it failed.
    """
    shown = [item.video_id for item in slate.items]
    new = sum(SOURCE_NEW in item.sources for item in slate.items)
    counts = {
        pb.RULE_KIND_FILTER: iter(() if candidates is None else candidates.rules.forbidden),
        pb.RULE_KIND_BOOST: iter(() if candidates is None else candidates.rules.boosted),
        pb.RULE_KIND_PIN: iter(
            int(shown[position : position + 1] == [name]) for position, name in rules.pinned.items()
        ),
        pb.RULE_KIND_CAP: iter(() if ranked is None else ranked.capped),
        pb.RULE_KIND_NEW_SHARE: iter([new] * len(rules.applied)),
    }
    for name, kind in rules.applied:
        yield pb.AppliedRule(name=name, kind=kind, count=next(counts[kind], 0))
