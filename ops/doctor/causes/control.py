"""The control plane, and what Envoy thinks of its configuration."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.processes import last_seen, state_of
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, found, listed


def configuration_refused(facts: Facts) -> Iterator[Finding]:
    """Resources that an Envoy has NACKed."""
    lines = [
        f"{each.envoy} refuses {each.kind} {each.name}: {each.words}" for each in facts.refusals
    ]
    names = [f"{each.kind} {each.name}" for each in facts.refusals]
    if not lines:
        for page in facts.pages:
            for labels, count in page.samples("vireo_xds_refused_resources"):
                if count:
                    names.append(labels.get("kind", ""))
                    lines.append(f"{count:.0f} {labels.get('kind', '')} refused")
    if lines:
        yield found("configuration-refused", lines, names=listed(names))


def control_down(facts: Facts) -> Iterator[Finding]:
    """A control plane that doesn't answer."""
    part, evidence = facts.ill("control"), state_of(facts.of_kind("control"))
    if part is None and not evidence:
        return
    answers = part is None and facts.part("control") is not None
    if answers and facts.refusals:
        return  # another control plane has its port
    since = last_seen(facts.of_kind("control")) if answers else 0.0
    if part is not None:
        evidence.append(f"{part.where}: {part.problem}")
    if any(not each.knows_control for each in facts.edges):
        evidence.append("Envoy isn't connected to it")
    yield found("control-down", evidence, "over" if since else "", since)


def discovery_fails(facts: Facts) -> Iterator[Finding]:
    """A source of pods that can't be read."""
    for page in facts.pages:
        for labels, age in page.samples("vireo_discovery_success_age_seconds"):
            source = labels.get("source", "")
            failed = page.increase("vireo_discovery_failures_total", source=source)
            if failed and source != "members" and age > 0:
                seen = f"{failed:.0f} failed attempts just now, the last success {ago(age)} ago"
                yield found("discovery-fails", [seen], what=source)


def envoy_alone(facts: Facts) -> Iterator[Finding]:
    """An Envoy that isn't connected to a control plane that answers."""
    control = facts.part("control")
    if control is None or control.fault or state_of(facts.of_kind("control")):
        return
    if any(not each.knows_control for each in facts.edges):
        seen = f"Envoy's control_plane.connected_state is 0; {control.where} answers"
        yield found("envoy-alone", [seen])


CAUSES = (configuration_refused, control_down, discovery_fails, envoy_alone)
