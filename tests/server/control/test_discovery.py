"""Where pods are found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.control.control import discovery_of
from server.control.discovery.file import EndpointsFileError, FileDiscovery, parse
from server.control.mesh import Endpoint, Endpoints, Pool
from server.control.settings import ControlSettings
from server.errors import VireoError
from tests.builders.control import local
from tests.builders.s3 import unreachable_s3


def replace(path: Path, text: str) -> None:
    """Changes a file as a writer should: by a rename."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def listing(*ports: int) -> str:
    return json.dumps({"candidate": {"production": [f"127.0.0.1:{port}" for port in ports]}})


async def following(found: AsyncIterator[Endpoints]) -> Endpoints:
    async with asyncio.timeout(30):
        return await anext(found)


async def test_a_file_is_followed_through_replacements_and_bad_content(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(listing(1))
    found = FileDiscovery(path).watch()
    pool = Pool("candidate")
    assert (await following(found))[pool] == local(1)
    replace(path, listing(1, 2))
    assert (await following(found))[pool] == local(1, 2)
    upcoming = asyncio.ensure_future(following(found))
    for bad in ("{", "[]", '{"candidates": {}}'):
        replace(path, bad)
        await asyncio.sleep(0.15)
    path.unlink()
    await asyncio.sleep(0.15)
    assert not upcoming.done(), "what can't be read takes no pod away"
    replace(path, listing(3))
    assert (await upcoming)[pool] == local(3)


def test_yaml_is_read_and_ipv6_hosts_are_in_brackets(tmp_path: Path) -> None:
    found = parse(b"ranking:\n  canary: ['[::1]:80', '10.0.0.1:81']\n", tmp_path)
    assert found[Pool("ranking", "canary")] == {Endpoint("::1", 80), Endpoint("10.0.0.1", 81)}
    assert found[Pool("ranking")] == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither JSON nor YAML"),
        ("[]", "valid dictionary"),
        ('{"rankings": {}}', "rankings: Extra inputs"),
        ('{"gateway": {"canary": []}}', "gateway.canary: Extra inputs"),
        ('{"ranking": {"production": ["nowhere"]}}', "'nowhere' is no address:port"),
        ('{"ranking": {"production": ["::1:0"]}}', "'::1:0' is no address:port"),
        ('{"ranking": {"production": ["pod-1:80"]}}', "'pod-1' does not appear to be an IP"),
    ],
)
def test_bad_content_is_told_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(EndpointsFileError) as raised:
        parse(text.encode(), tmp_path / "endpoints.json")
    assert words in str(raised.value)
    assert "endpoints.json" in str(raised.value)


async def test_a_list_can_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_ENDPOINTS", listing(1, 2))
    settings = ControlSettings(s3=unreachable_s3())
    found = await following(discovery_of(settings).watch())
    assert found[Pool("candidate")] == local(1, 2)


def test_without_any_source_the_settings_to_set_are_told() -> None:
    with pytest.raises(VireoError, match="VIREO_ENDPOINTS_FILE"):
        discovery_of(ControlSettings(s3=unreachable_s3()))
