"""S3 with the releases, and the pods that follow a channel."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.features import OLD_SECONDS
from vireo.ops.doctor.causes.processes import last_seen, state_of
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, found, listed


def s3_down(facts: Facts) -> Iterator[Finding]:
    """S3 that doesn't answer: what is served goes on, nothing new comes."""
    part, evidence = facts.ill("s3"), state_of(facts.of_kind("s3"))
    down = part is not None or bool(evidence)
    if part is not None:
        evidence.append(f"{part.where}: {part.problem}")
    cached = [each.name for each in facts.pods if each.origin == "cache"]
    if evidence or cached:
        evidence += [f"{listed(cached)} serves its release from the cache"] if cached else []
        if failed := facts.increase("vireo_s3_requests_total", outcome="unavailable"):
            evidence.append(f"{failed:.0f} requests of processes failed just now")
        since = last_seen(facts.of_kind("s3")) if facts.part("s3") and part is None else 0.0
        yield found("s3-down", evidence, "" if down else "over", since)


def no_release(facts: Facts) -> Iterator[Finding]:
    """A production channel that names nothing."""
    if any(each.name == "production" and not each.release for each in facts.channels):
        yield found("no-release", ["S3 answers, and the channel was never set"])


def mixed_releases(facts: Facts) -> Iterator[Finding]:
    """Pods of production that serve other releases than the rest, for longer than a rollout."""
    by_release: dict[str, list[str]] = {}
    for pod in facts.pods:
        if pod.pool == "production" and pod.release:
            by_release.setdefault(pod.release, []).append(pod.name)
    if not facts.pods:
        for page in facts.pages:
            for labels, value in page.samples("vireo_release_info", role="serving"):
                if value and labels.get("channel") == "production":
                    by_release.setdefault(labels["release"], []).append(page.source)
    mixed = facts.increase("vireo_degradations_total", kind="mixed_releases")
    if len(by_release) < 2:
        return
    evidence = [f"{release}: {listed(names)}" for release, names in by_release.items()]
    if mixed:
        evidence.append(f"{mixed:.0f} slates mixed them within {facts.seconds:.0f} s")
    yield found("mixed-releases", evidence, "mixing" if mixed else "", count=str(len(by_release)))


def release_refused(facts: Facts) -> Iterator[Finding]:
    """Pods that can't follow their channel, though S3 answers."""
    why = {each.name: each.failure for each in facts.pods if each.failure}
    if not facts.pods:
        seen = "its latest attempt to follow the channel failed (vireo_release_failing)"
        why = dict.fromkeys(facts.sources("vireo_release_failing"), seen)
    if why:
        evidence = (f"{name}: {reason}" for name, reason in why.items())
        yield found("release-refused", evidence, names=listed(why))


def release_stale(facts: Facts) -> Iterator[Finding]:
    """A channel that names another release than every pod serves."""
    for channel in facts.channels:
        pods = [each for each in facts.pods if each.channel == channel.name and each.release]
        late = [each for each in pods if each.release != channel.release]
        if (
            channel.release
            and late
            and len(late) == len(pods)
            and not any(each.loading for each in late)
        ):
            evidence = (f"{each.name} serves {each.release}" for each in late)
            yield found("release-stale", evidence, channel=channel.name, release=channel.release)


def release_old(facts: Facts) -> Iterator[Finding]:
    """A release that was trained a long time ago."""
    metric = "vireo_release_created_timestamp_seconds"
    if (age := facts.age(metric)) > OLD_SECONDS:
        yield found("release-old", [f"{metric} of the pods"], time=ago(age))


CAUSES = (s3_down, no_release, mixed_releases, release_refused, release_stale, release_old)
