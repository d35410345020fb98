"""Where pods are found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
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


async def test_a_file_is_followed_and_its_absence_and_invalid_content_remove_no_pod(
    tmp_path: Path,
) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(listing(1))
    discovery = FileDiscovery(path)
    async with following(discovery) as found:
        replace(path, listing(1, 2))
        await until(lambda: len(found) == 2)
        for content in (None, "{", "#" * (2 << 20)):
            if content is None:
                path.unlink()
            else:
                replace(path, content)
            before = discovery.attempts.failures
            await until(lambda: discovery.attempts.failures >= before + 2)  # noqa: B023
        replace(path, listing(3))
        await until(lambda: len(found) == 3)
    assert [each[CANDIDATE] for each in found] == [local(1), local(1, 2), local(3)]


@pytest.mark.parametrize("content", [listing(1), "{", ""])
def test_content_that_is_still_the_same_is_parsed_once(
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
        with nullcontext() if content == listing(1) else pytest.raises(VireoError):
            discovery._read()
    assert parsed == [content.encode()]


def test_a_pool_of_an_earlier_version_is_ignored(tmp_path: Path) -> None:
    pools = {"production": ["10.0.0.1:1"], "shadow": ["10.0.0.2:1"]}
    document = {"candidate": pools, "ranking": pools}
    found = parse(json.dumps(document).encode(), tmp_path / "endpoints.json")
    assert {each for pool in found.values() for each in pool} == {Endpoint("10.0.0.1", 1)}


def test_yaml_is_read_and_ipv6_hosts_are_in_brackets(tmp_path: Path) -> None:
    found = parse(b"ranking:\n  canary: ['[::1]:80', '10.0.0.1:81']\n", tmp_path)
    assert found[Pool("ranking", "canary")] == {Endpoint("::1", 80), Endpoint("10.0.0.1", 81)}
    assert found[Pool("ranking")] == frozenset()


MERGED = "a: &a {b: c}\n" + "".join(
    f"{chr(each + 1)}: &{chr(each + 1)} {{<<: [{', '.join([f'*{chr(each)}'] * 9)}]}}\n"
    for each in range(ord("a"), ord("y"))
)
"""A few kilobytes that stand for more than any memory has."""
INVALID = [
    (b"{", "neither JSON nor YAML"),
    (b"2001-99-99", "neither JSON nor YAML"),
    (b"[" * 100_000, "neither JSON nor YAML"),
    (b"[a, " * 1_200, "neither JSON nor YAML"),
    (bytes(range(256)) * 10, "neither JSON nor YAML"),
    ('{"candidate": 1}'.encode("utf-16"), "candidate: "),
    (MERGED.encode(), "aliases (*name) are not supported"),
    (b"? [a]\n: b\n", "neither JSON nor YAML"),
    (b"!!python/object/apply:os.getcwd []", "neither JSON nor YAML"),
    (b"--- {}\n--- {}\n", "neither JSON nor YAML"),
    (b"", "valid dictionary"),
    (b"[]", "valid dictionary"),
    (b'{"rankings": {}}', "rankings: Extra inputs"),
    (b'{"gateway": {"canary": []}}', "gateway.canary: Extra inputs"),
    (b'{"candidate": {"production": "127.0.0.1:80"}}', "candidate.production: "),
    (b'{"ranking": {"production": ["nowhere"]}}', "'nowhere' is not address:port"),
    (b'{"ranking": {"production": ["::1:0"]}}', "'::1:0' is not address:port"),
    (b'{"ranking": {"production": ["[::1]:' + b"9" * 5000 + b'"]}}', "is not address:port"),
    (b'{"ranking": {"production": ["[fe80::1%eth0]:80"]}}', "has a scope"),
    (b'{"ranking": {"production": ["pod-1:80"]}}', "'pod-1' does not appear to be an IP"),
]


@pytest.mark.parametrize(("text", "words"), INVALID)
def test_invalid_content_is_reported_with_its_location(
    text: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(VireoError) as raised:
        parse(text, tmp_path / "endpoints.json")
    assert words in str(raised.value)
    assert "endpoints.json" in str(raised.value)


async def test_a_list_can_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_ENDPOINTS", listing(1, 2))
    async with following(discovery_of(ControlSettings(s3=unreachable_s3()))) as found:
        assert found[0][CANDIDATE] == local(1, 2)


def test_without_a_source_the_error_names_the_settings() -> None:
    with pytest.raises(VireoError, match="VIREO_ENDPOINTS_FILE"):
        discovery_of(ControlSettings(s3=unreachable_s3()))
