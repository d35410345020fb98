"""Where pods are found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.builders.control import local
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.control.control import discovery_of
from vireo.server.control.discovery import Discovery, FileDiscovery, parse
from vireo.server.control.mesh import Endpoint, Endpoints, Pool
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError

CANDIDATE = Pool("candidate")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_file_polls")]


def replace(path: Path, text: str) -> None:
    """Change a file as a writer should: by a rename."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def listing(*ports: int) -> str:
    return json.dumps({"candidate": {"production": [f"127.0.0.1:{port}" for port in ports]}})


@asynccontextmanager
async def following(discovery: Discovery) -> AsyncIterator[list[Endpoints]]:
    """Yield what a source finds, the latest last."""
    found: list[Endpoints] = []
    task = asyncio.create_task(discovery.follow(found.append))
    try:
        await until(lambda: bool(found))
        yield found
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_file_is_followed_through_replacements_and_its_absence(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(listing(1))
    discovery = FileDiscovery(path)
    async with following(discovery) as found:
        replace(path, listing(1, 2))
        await until(lambda: len(found) == 2)
        path.unlink()
        await until(lambda: discovery.attempts.failures >= 2)
        replace(path, listing(3))
        await until(lambda: len(found) == 3)
    assert [each[CANDIDATE] for each in found] == [local(1), local(1, 2), local(3)]


MERGED = "a: &a {b: c}\n" + "".join(
    f"{chr(each + 1)}: &{chr(each + 1)} {{<<: [{', '.join([f'*{chr(each)}'] * 9)}]}}\n"
    for each in range(ord("a"), ord("y"))
)
"""A few kilobytes that stand for more than any memory has."""
HOSTILE = {
    "a date that is none": b"2001-99-99",
    "deep JSON": b"[" * 100_000,
    "deep YAML": b"[a, " * 1_200,
    "binary": bytes(range(256)) * 10,
    "UTF-16": '{"candidate": 1}'.encode("utf-16"),
    "a bomb of merges": MERGED.encode(),
    "a key that is a list": b"? [a]\n: b\n",
    "an object of Python": b"!!python/object/apply:os.getcwd []",
    "two documents": b"--- {}\n--- {}\n",
    "nothing": b"",
    "a port of 5,000 digits": b'{"candidate": {"production": ["127.0.0.1:' + b"9" * 5000 + b'"]}}',
    "an address with a scope": b'{"candidate": {"production": ["[fe80::1%eth0]:80"]}}',
    "pods that are text": b'{"candidate": {"production": "127.0.0.1:80"}}',
    "two megabytes": b"#" * (2 << 20),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_invalid_file_content_removes_no_pod_and_is_reported_until_it_is_fixed(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(listing(1))
    discovery = FileDiscovery(path)
    async with following(discovery) as found:
        path.write_bytes(HOSTILE[name])
        await until(lambda: discovery.attempts.failures >= 2)
        replace(path, listing(2))
        await until(lambda: len(found) == 2)
    assert [each[CANDIDATE] for each in found] == [local(1), local(2)]


@pytest.mark.parametrize("content", ["{", ""])
def test_invalid_content_is_parsed_once(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def counting(text: bytes, path: Path) -> Endpoints:
        parsed.append(text)
        return parse(text, path)

    monkeypatch.setattr("vireo.server.control.discovery.parse", counting)
    path = tmp_path / "endpoints.json"
    path.write_text(content)
    discovery = FileDiscovery(path)
    for _ in range(3):
        with pytest.raises(VireoError, match=r"endpoints\.json"):
            discovery._read()
    assert parsed == [content.encode()]


def test_yaml_is_read_and_ipv6_hosts_are_in_brackets(tmp_path: Path) -> None:
    found = parse(b"ranking:\n  canary: ['[::1]:80', '10.0.0.1:81']\n", tmp_path)
    assert found[Pool("ranking", "canary")] == {Endpoint("::1", 80), Endpoint("10.0.0.1", 81)}
    assert found[Pool("ranking")] == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither JSON nor YAML"),
        ("candidate: &a {production: []}\nranking: *a\n", "aliases (*name) are not supported"),
        ("[]", "valid dictionary"),
        ('{"rankings": {}}', "rankings: Extra inputs"),
        ('{"gateway": {"canary": []}}', "gateway.canary: Extra inputs"),
        ('{"ranking": {"production": ["nowhere"]}}', "'nowhere' is not address:port"),
        ('{"ranking": {"production": ["::1:0"]}}', "'::1:0' is not address:port"),
        ('{"ranking": {"production": ["pod-1:80"]}}', "'pod-1' does not appear to be an IP"),
    ],
)
def test_invalid_content_is_reported_with_its_location(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(VireoError) as raised:
        parse(text.encode(), tmp_path / "endpoints.json")
    assert words in str(raised.value)
    assert "endpoints.json" in str(raised.value)


async def test_a_list_can_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_ENDPOINTS", listing(1, 2))
    async with following(discovery_of(ControlSettings(s3=unreachable_s3()))) as found:
        assert found[0][CANDIDATE] == local(1, 2)


def test_without_a_source_the_error_names_the_settings() -> None:
    with pytest.raises(VireoError, match="VIREO_ENDPOINTS_FILE"):
        discovery_of(ControlSettings(s3=unreachable_s3()))
