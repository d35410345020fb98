"""Disks, certificates, clocks and memory."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.facts import Certificate, Disk, Facts
from vireo.ops.doctor.finding import Finding, ago, found

_ENDS_SOON = 14 * 86_400.0
_FULL_BYTES = 16 << 20
"""Free bytes below which a disk counts as full: files are written in parts of about that size."""
_LOW_BYTES, _LOW_SHARE = 2 << 30, 0.1
"""A disk is nearly full if less than both is free."""
_CLOCK_OFF = 5.0
"""Seconds. Events may lie a minute in the future; S3 accepts 15 minutes."""
_LOW_MEMORY = 0.05
_OPEN_SHARE = 0.8
_LOG = "the log of events"


def disks_full(facts: Facts) -> Iterator[Finding]:
    """No room for events, or for anything else; or little room left."""
    low: dict[tuple[float, float], list[Disk]] = {}
    for disk in facts.disks:
        if _FULL_BYTES <= disk.free < min(_LOW_BYTES, _LOW_SHARE * disk.size):
            low.setdefault((disk.free, disk.size), []).append(disk)
        elif disk.free < _FULL_BYTES and disk.what != _LOG:
            yield found("disk-full", [_room(disk)], what=disk.what)
        elif disk.free < _FULL_BYTES:
            part = facts.ill("log")
            refused = facts.increase("vireo_events_refused_total", reason="away")
            evidence = [_room(disk)]
            if part is not None:
                evidence.append(f"the log: {part.problem}")
            if refused:
                evidence.append(f"gateways refused {refused:.0f} events just now")
            yield found("log-disk-full", evidence)
    for disks in low.values():
        yield found("disk-filling", map(_room, disks), what=disks[0].what)


def _room(disk: Disk) -> str:
    share = disk.free / disk.size if disk.size else 0.0
    free = (
        f"{disk.free / (1 << 30):.1f} GiB" if disk.free >= 1 << 30 else f"{disk.free / 1e6:.0f} MB"
    )
    return f"{disk.folder} ({disk.what}): {free} free, {share:.0%} of the disk"


def certificates_end(facts: Facts) -> Iterator[Finding]:
    """Certificates that have ended or can't be read, so that connections fail; or soon will."""
    over = [each for each in facts.certificates if each.problem or each.ends_in <= 0]
    if over:
        variant = "unreadable" if over[0].problem else ""
        yield found("certificate-over", map(_validity, over), variant)
    soon = [each for each in facts.certificates if each not in over and each.ends_in <= _ENDS_SOON]
    if soon:
        soon.sort(key=lambda each: each.ends_in)
        yield found("certificate-ends", map(_validity, soon), time=ago(soon[0].ends_in))


def _validity(each: Certificate) -> str:
    if each.problem:
        return f"{each.file}: {each.problem}"
    if each.ends_in <= 0:
        return f"{each.file} ended {ago(-each.ends_in)} ago"
    return f"{each.file} ends in {ago(each.ends_in)}"


def clock_off(facts: Facts) -> Iterator[Finding]:
    """Clocks that differ: events are refused, tokens and certificates seem not to be valid."""
    off = [each for each in facts.clocks if abs(each.ahead) - each.uncertainty > _CLOCK_OFF]
    if off:
        worst = max(off, key=lambda each: abs(each.ahead))
        direction = "ahead of" if worst.ahead > 0 else "behind"
        evidence = (
            f"{each.source}: {each.ahead:+.0f} s (± {each.uncertainty:.0f} s)" for each in off
        )
        apart = f"{ago(abs(worst.ahead))} {direction}"
        yield found("clock-off", evidence, names=worst.source, apart=apart)


def memory_short(facts: Facts) -> Iterator[Finding]:
    """Memory that is nearly gone: the kernel kills next."""
    for each in facts.machines:
        if each.free_memory < _LOW_MEMORY:
            yield found("memory-short", [f"{each.free_memory:.1%} is available"])


def files_run_out(facts: Facts) -> Iterator[Finding]:
    """Processes that have nearly as many files open as they may."""
    for page in facts.pages:
        opened, most = page.value("process_open_fds"), page.value("process_max_fds")
        if most and opened > _OPEN_SHARE * most:
            yield found("files-run-out", [f"{opened:.0f} of {most:.0f}"], names=page.source)


CAUSES = (disks_full, certificates_end, clock_off, memory_short, files_run_out)
