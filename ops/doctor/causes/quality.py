"""What makes slates worse without failing: old data, missing sources, refused rules."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, listed

_OLD_SECONDS = 14 * 86_400.0
_MIN_SHARE = 0.02


def source_missing(facts: Facts) -> Iterator[Finding]:
    """A candidate source that fails."""
    missing = facts.increase("vireo_degradations_total", kind="source_missing")
    asked = any("source_missing" in each.degradations for each in facts.slates)
    if asked or missing > _MIN_SHARE * facts.increase("vireo_slates_total") > 0:
        yield Finding(
            "source-missing",
            "failing",
            "A candidate source fails, and slates are made without it",
            (f"{missing:.0f} slates lacked a source or its score just now",),
            "vireo recommend --viewer ID explains which one; the candidate pods' logs say why",
            "VireoSourceMissing",
        )


def rules_refused(facts: Facts) -> Iterator[Finding]:
    """Rules of the site that aren't in effect."""
    refusing = [
        page.source
        for page in facts.pages
        # A gateway without a file of rules counts none as valid either.
        if page.value("vireo_rules_loads_total") and not page.value("vireo_rules_valid")
    ]
    if refusing:
        yield Finding(
            "rules-refused",
            "risk",
            f"{listed(refusing)} refuses the rules of the site",
            ("the rules before stay in effect (vireo_rules_valid is 0)",),
            "vireo rules check FILE says what is wrong with them, and with which release",
            "VireoRulesRefused",
        )


def features_old(facts: Facts) -> Iterator[Finding]:
    """Features that nobody has built for a long time."""
    if age := _age(facts, "vireo_features_built_timestamp_seconds"):
        yield Finding(
            "features-old",
            "risk",
            f"Features were built {ago(age)} ago",
            ("vireo_features_built_timestamp_seconds of the gateways",),
            "Look why the job that builds them didn't run: vireo features build DATASET",
            "VireoFeaturesStale",
        )


def release_old(facts: Facts) -> Iterator[Finding]:
    """A release that was trained a long time ago."""
    if age := _age(facts, "vireo_release_created_timestamp_seconds"):
        yield Finding(
            "release-old",
            "risk",
            f"The served release was trained {ago(age)} ago",
            ("vireo_release_created_timestamp_seconds of the pods",),
            "Look why the job that trains didn't run, or why its gate refused: vireo release list",
            "VireoReleaseStale",
        )


def _age(facts: Facts, metric: str) -> float:
    """Return the age of the newest, in seconds; 0 if it isn't old, or nobody says."""
    ages = [
        page.read_at - value
        for page in facts.pages
        for _, value in page.samples(metric)
        if page.read_at
    ]
    age = min(ages, default=0.0)
    return age if age > _OLD_SECONDS else 0.0
