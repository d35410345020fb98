"""`vireo rules check` tells what is wrong with a file, and what a good one would change."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.builders.chain import candidate_target, features, ranking_target, release
from tests.builders.commands import vireo
from tests.builders.tiny_home import VIEWER
from vireo.ops.cli.rules_preview import compare
from vireo.server.errors import VireoError
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.rules import SiteRules

__all__ = ["candidate_target", "features", "ranking_target", "release"]

GERMAN = """
[[filters]]
name = "german"
conditions = [{ attribute = "language", any_of = ["de"] }]
"""


def test_a_good_file_is_valid_without_a_stack(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(GERMAN)
    told = vireo("rules", "check", str(file), "--offline", "--json")
    assert json.loads(told.stdout) == {"file": str(file), "rules": 1}


def test_a_bad_file_is_told_with_table_and_key(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(GERMAN.replace("any_of", "of"))
    told = vireo("rules", "check", str(file), "--offline")
    assert isinstance(told.exception, VireoError)
    assert "[[filters]] number 1 (german): conditions[0].of: there is no such key" in str(
        told.exception
    )


async def test_a_preview_says_what_rules_change(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
) -> None:
    loaded = await asyncio.to_thread(GatewayRelease.load, release, features, 10.0)
    targets, viewers = [candidate_target, ranking_target], [VIEWER, "unknown"]
    german = SiteRules.parse(GERMAN.encode())
    told = await compare(german, None, viewers, targets, loaded)
    assert 0 < told["overlap"] < 1
    assert told["forbidden"] == pytest.approx(23 / 40)
    assert told["degraded"] == 0
    assert told["applied"] == {"german": 23}
    same = await compare(german, german, viewers, targets, loaded)
    assert (same["overlap"], same["shortened"]) == (1, 0)
    one = b'[[caps]]\nname = "c"\nattribute = "creator"\nmax = 1\n'
    assert (await compare(SiteRules.parse(one), None, viewers, targets, loaded))["shortened"] == 2
    other = SiteRules.parse(GERMAN.replace("language", "mood").encode())
    for asked, before, whose in ((other, german, "^release"), (german, other, "^--against: rel")):
        with pytest.raises(VireoError, match=rf"{whose}.*mood"):
            await compare(asked, before, viewers, targets, loaded)
