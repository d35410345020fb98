"""The file of the site's rules: what it may say, and how a gateway follows it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.rule_tables import BadRulesError
from vireo.server.gateway.rules import LOADS, VALID, RulesFile, SiteRules

GERMAN = (
    '[[filters]]\nname = "german"\nconditions = [{ attribute = "language", any_of = ["de"] }]\n'
)


def put(file: Path, text: str | None) -> None:
    """Write a file of rules, or remove it."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def calls_to_parse(text: str) -> int:
    """How many functions, of C too, are called to parse rules: no busy machine changes it."""
    counts = Counter[str]()
    sys.setprofile(lambda _, event, __: counts.update([event]))
    try:
        with suppress(BadRulesError):
            SiteRules.parse(text.encode())
    finally:
        sys.setprofile(None)
    return counts["call"] + counts["c_call"]


@pytest.mark.parametrize(
    "rule",
    [
        'regions = ["r{0}"]\nvideo_id = "v{0}"\nposition = 1',
        'regions = ["r{0}", "all"]\nvideo_id = "v{0}"\nposition = {1}',
        'regions = ["r{0}"]\nvideo_id = "v"\nposition = 1\nwrong = 1',
    ],
)
def test_twice_as_many_rules_take_twice_as_long_to_read(rule: str) -> None:
    def rules(count: int) -> str:
        named = (f'[[pins]]\nname = "{{0}}"\n{rule}\n'.format(n, 1 + n % 64) for n in range(count))
        return "".join(named)

    assert calls_to_parse(rules(400)) < 2.5 * calls_to_parse(rules(200))


async def test_a_bad_version_of_the_file_changes_nothing(file: Path, release: Path) -> None:
    put(file, GERMAN)
    rules = RulesFile(file)
    before = rules.rules
    refused = LOADS.labels("refused")._value.get()
    for bad in ("[[filters", GERMAN.replace("any_of", "any"), "x" * (2 << 20)):
        put(file, bad)
        await rules.look()
        await rules.look()
        assert rules.rules is before
        assert VALID._value.get() == 0
    assert LOADS.labels("refused")._value.get() == refused + 3  # each is told once
    put(file, None)
    await rules.look()
    assert rules.rules is before
    put(file, "")
    await rules.look()
    assert len(rules.rules) == 0
    assert VALID._value.get() == 1


async def test_rules_that_the_release_does_not_fit_wait_for_one_that_does(
    file: Path, release: Path, features: Path
) -> None:
    put(file, "")
    rules = RulesFile(file)
    loaded = await asyncio.to_thread(GatewayRelease.load, release, features, 1.0)
    rules.serving = lambda: ("tiny-1", loaded.declared)
    put(file, GERMAN.replace("language", "dialect"))
    await rules.look()
    assert len(rules.rules) == 0
    assert VALID._value.get() == 0
    rules.serving = lambda: None
    await rules.look()
    assert len(rules.rules) == 1


async def test_a_file_whose_volume_hangs_holds_nothing_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, GERMAN)
    rules, hangs = RulesFile(file), threading.Event()
    monkeypatch.setattr("vireo.server.gateway.rules._version", lambda _: hangs.wait(15))
    looking = asyncio.ensure_future(rules.look())
    try:
        await asyncio.sleep(0.05)
        assert not looking.done()
        assert len(rules.rules) == 1
    finally:
        hangs.set()
        await looking


def test_a_gateway_does_not_start_without_the_rules_that_a_site_counts_on(file: Path) -> None:
    with pytest.raises(BadRulesError, match="can't be read"):
        RulesFile(file)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[[filter]]", ["[[filter]]: there is no such table"]),
        (
            '[[boosts]]\nname = "own"\nfactor = 200',
            ["[[boosts]] number 1 (own): factor: Input should be less than or equal to 100"],
        ),
        (
            '[[boosts]]\nname = "own"\nfactor = nan\nconditions = [{ attribute = "tag" }]',
            ["[[boosts]] number 1 (own): factor: Input should be"],
        ),
        ('[[pins]]\nname = "p"\nposition = "1"', ["(p): video_id: is missing", "(p): position: "]),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "tag" }]',
            ["[[filters]] number 1 (f): conditions[0]: must have values or a bound"],
        ),
        ('[[filters]]\nname = "f"', ["[[filters]] number 1 (f): must have a condition"]),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "duration", min = 9, max = 1 }]',
            ["conditions[0]: duration must be at least 9 and at most 1"],
        ),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "tag", some_of = ["a"] }]',
            ["[[filters]] number 1 (f): conditions[0].some_of: there is no such key"],
        ),
        (
            '[[caps]]\nname = "c"\nattribute = "tag"\nmax = 1\nregions = ["Somewhere far away"]',
            ["(c): regions[0]: must have at most 16 bytes"],
        ),
        (
            '[[caps]]\nname = "c"\nattribute = "tag"\nmax = 1\n'
            '[[new_videos]]\nname = "c"\nshare = 0.1',
            ["[[new_videos]] number 1 (c): name: is that of [[caps]] number 1 too"],
        ),
        (
            '[[pins]]\nname = "p"\nvideo_id = "a"\nposition = 1\nregions = ["DE"]\n'
            '[[pins]]\nname = "q"\nvideo_id = "b"\nposition = 1',
            ["[[pins]] number 2 (q): position: is that of p on home in DE"],
        ),
        (
            "\n".join(f'[[caps]]\nname = "c{n}"\nattribute = "tag"\nmax = 1' for n in range(17)),
            ["[[caps]]: 17 apply on home, more than 16"],
        ),
        (
            "".join(
                f'[[caps]]\nname = "c{n}"\nattribute = "tag"\nmax = 1\n'
                f"regions = {[f'{n}-{m}' for m in range(501)]}\n"
                for n in range(2)
            ),
            ["the rules name 1,002 regions, more than 1,000"],
        ),
        ("a = [", ["isn't TOML: "]),
    ],
)
def test_errors_name_table_and_key(text: str, problems: list[str]) -> None:
    with pytest.raises(BadRulesError) as raised:
        SiteRules.parse(text.encode())
    told = "\n".join(raised.value.problems)
    for each in problems:
        assert each in told


def test_a_publication_time_may_be_a_time_of_toml() -> None:
    rules = SiteRules.parse(
        b'[[filters]]\nname = "f"\n'
        b'conditions = [{ attribute = "published", min = 2026-01-01T00:00:00Z }]\n'
    )
    [found] = active(rules).message.filters
    assert found.conditions[0].min == 1767225600
    with pytest.raises(BadRulesError, match="must say its zone"):
        SiteRules.parse(
            b'[[filters]]\nname = "f"\n'
            b'conditions = [{ attribute = "published", min = 2026-01-01T00:00:00 }]\n'
        )


def active(rules: SiteRules, **of: Any) -> Any:
    return rules.active(**{"up_next": False, "region": "", "first_page": True, **of})


def test_rules_apply_by_surface_and_region_which_may_be_that_of_requests_without_one() -> None:
    rules = SiteRules.parse(
        b'[[new_videos]]\nname = "a"\nshare = 0.1\nregions = ["De", ""]\n'
        b'[[new_videos]]\nname = "b"\nshare = 0.2\nregions = ["DE"]\nsurfaces = ["home"]\n'
    )
    assert active(rules).message.new_share == pytest.approx(0.1)
    assert active(rules, region=" de").message.new_share == pytest.approx(0.2)
    assert active(rules, region="DE", up_next=True).message.new_share == pytest.approx(0.1)
    assert active(rules, region="AT") is None
    assert active(SiteRules.parse(b"")) is None


def test_the_example_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    rules = SiteRules.parse(page.split("```toml\n")[1].split("```")[0].encode())
    assert len(rules) == 9
    found = active(rules, region="de")
    assert [name for name, _ in found.applied][:2] == [
        "rights-in-dach",
        "adults-only-after-a-choice",
    ]
    assert found.pinned == {1: "premiere-1"}
