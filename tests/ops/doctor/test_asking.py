"""Probes that hang or break keep no other from being heard."""

from __future__ import annotations

import threading

from vireo.ops.doctor.deployment import Probe, ask_all
from vireo.ops.doctor.facts import Facts, Part
from vireo.server.errors import VireoError


def test_a_probe_that_hangs_is_reported_and_not_waited_for() -> None:
    for_ever = threading.Event()

    def hang() -> Facts:
        for_ever.wait()
        return Facts()

    try:
        well = Probe("s3", lambda: Facts(parts=(Part("s3", "here"),)))
        facts = ask_all([Probe("the log", hang), well], 0.2)
    finally:
        for_ever.set()
    assert [each.name for each in facts.parts] == ["s3"]
    [unasked] = facts.unasked
    assert (unasked.what, unasked.why) == ("the log", "found nothing out within 0.2 s")


def test_a_probe_that_breaks_is_one_line() -> None:
    def explain() -> Facts:
        raise VireoError("set VIREO_S3_ENDPOINT")

    def crash() -> Facts:
        raise ZeroDivisionError("division by zero")

    def lack() -> Facts:
        raise ModuleNotFoundError("No module named 'minio'", name="minio")

    probes = [Probe("one", explain), Probe("two", crash), Probe("three", lack)]
    assert [each.why for each in ask_all(probes, 30).unasked] == [
        "set VIREO_S3_ENDPOINT",
        "ZeroDivisionError: division by zero",
        "the package minio isn't installed here",
    ]


def test_facts_keep_the_order_of_their_probes() -> None:
    def named(name: str) -> Probe:
        return Probe(name, lambda: Facts(parts=(Part(name, name),)))

    names = [str(number) for number in range(50)]
    assert [each.name for each in ask_all(list(map(named, names)), 30).parts] == names
