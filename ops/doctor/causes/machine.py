"""Disks, certificates, clocks and memory."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.facts import Certificate, Disk, Facts
from vireo.ops.doctor.finding import Finding, ago, shown

_DAY = 86_400.0
_ENDS_SOON = 14 * _DAY
_FULL_BYTES = 16 << 20
"""Free bytes below which a disk counts as full: files are written in parts of about that size."""
_LOW_BYTES, _LOW_SHARE = 2 << 30, 0.1
"""A disk is nearly full if less than both is free."""
_CLOCK_OFF = 5.0
"""Seconds. Events may lie a minute in the future; S3 accepts 15 minutes."""
_LOW_MEMORY = 0.05
_OPEN_SHARE = 0.8
_LOG = "the log of events"


def log_disk_full(facts: Facts) -> Iterator[Finding]:
    """No room for events."""
    for disk in facts.disks:
        if disk.what == _LOG and disk.free < _FULL_BYTES:
            part = facts.ill("log")
            refused = facts.increase("vireo_events_refused_total", reason="away")
            evidence = [_room(disk)]
            if part is not None:
                evidence.append(f"the log: {part.problem}")
            if refused:
                evidence.append(f"gateways refused {refused:.0f} events just now")
            yield Finding(
                "log-disk-full",
                "failing",
                "The disk of the log of events is full: no event can be recorded",
                shown(evidence),
                "Make room on it; the log is started again 10 s after. VIREO_EVENT_MAX_BYTES and "
                "VIREO_EVENT_RETENTION bound what it keeps",
                "VireoLogDiskFull",
            )


def disk_full(facts: Facts) -> Iterator[Finding]:
    """No room for anything else."""
    for disk in facts.disks:
        if disk.what != _LOG and disk.free < _FULL_BYTES:
            yield Finding(
                "disk-full",
                "failing",
                f"The disk of {disk.what} is full",
                (_room(disk),),
                "Make room: vireo release gc --yes for S3, fewer VIREO_CACHE_RELEASES for the "
                "cache; logs rotate by themselves",
                "VireoDiskFilling",
            )


def disk_filling(facts: Facts) -> Iterator[Finding]:
    """Little room left."""
    low: dict[tuple[float, float], list[Disk]] = {}
    for disk in facts.disks:
        if _FULL_BYTES <= disk.free < min(_LOW_BYTES, _LOW_SHARE * disk.size):
            low.setdefault((disk.free, disk.size), []).append(disk)
    for disks in low.values():
        yield Finding(
            "disk-filling",
            "risk",
            f"The disk of {disks[0].what} is nearly full",
            shown(map(_room, disks)),
            "Make room before writes fail: vireo release gc --yes, fewer VIREO_CACHE_RELEASES, a "
            "shorter VIREO_EVENT_RETENTION",
            "VireoDiskFilling",
        )


def _room(disk: Disk) -> str:
    share = disk.free / disk.size if disk.size else 0.0
    free = (
        f"{disk.free / (1 << 30):.1f} GiB" if disk.free >= 1 << 30 else f"{disk.free / 1e6:.0f} MB"
    )
    return f"{disk.folder} ({disk.what}): {free} free, {share:.0%} of the disk"


def certificate_over(facts: Facts) -> Iterator[Finding]:
    """Certificates that have ended, or can't be read: connections fail."""
    over = [each for each in facts.certificates if each.problem or each.ends_in <= 0]
    if over:
        yield Finding(
            "certificate-over",
            "failing",
            "A certificate has expired" if not over[0].problem else "A certificate can't be read",
            shown(map(_validity, over)),
            "Renew them: vireo certificates; processes read the new files within seconds",
            "VireoCertificateExpires",
        )


def certificate_ends(facts: Facts) -> Iterator[Finding]:
    """Certificates that end within days."""
    soon = [
        each for each in facts.certificates if not each.problem and 0 < each.ends_in <= _ENDS_SOON
    ]
    if soon:
        first = min(soon, key=lambda each: each.ends_in)
        yield Finding(
            "certificate-ends",
            "risk",
            f"A certificate expires in {ago(first.ends_in)}",
            shown(_validity(each) for each in sorted(soon, key=lambda each: each.ends_in)),
            "Renew them: vireo certificates; processes read the new files within seconds",
            "VireoCertificateExpires",
        )


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
        yield Finding(
            "clock-off",
            "failing",
            f"The clock of {worst.source} is {ago(abs(worst.ahead))} {direction} this machine's",
            shown(
                f"{each.source}: {each.ahead:+.0f} s (± {each.uncertainty:.0f} s)" for each in off
            ),
            "Start time synchronization (chronyd, systemd-timesyncd) on the machine that is wrong: "
            "timedatectl shows which one that is",
            "VireoEventsRefused",
        )


def memory_short(facts: Facts) -> Iterator[Finding]:
    """Memory that is nearly gone: the kernel kills next."""
    for each in facts.machines:
        if each.free_memory < _LOW_MEMORY:
            yield Finding(
                "memory-short",
                "risk",
                "This machine has hardly any memory left",
                (f"{each.free_memory:.1%} is available",),
                "The kernel kills the largest process next. Fewer pods, or more memory",
            )


def files_run_out(facts: Facts) -> Iterator[Finding]:
    """Processes that have nearly as many files open as they may."""
    for page in facts.pages:
        opened, most = page.value("process_open_fds"), page.value("process_max_fds")
        if most and opened > _OPEN_SHARE * most:
            yield Finding(
                "files-run-out",
                "risk",
                f"{page.source} has nearly as many files and connections open as it may",
                (f"{opened:.0f} of {most:.0f}",),
                "Raise its limit (ulimit -n, LimitNOFILE=) and look who connects so often",
                "VireoFilesRunOut",
            )
