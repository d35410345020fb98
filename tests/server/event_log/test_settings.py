from __future__ import annotations

import pytest
from pydantic import SecretStr

from vireo.ops.stack.nats import log_environment
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import open_log
from vireo.server.event_log.settings import EventLogSettings


def test_several_servers_are_named_with_commas() -> None:
    settings = EventLogSettings(nats_url="nats://a:4222, tls://b:4222,")
    assert settings.servers == ["nats://a:4222", "tls://b:4222"]


def test_there_is_no_log_unless_one_is_named() -> None:
    assert open_log(EventLogSettings()) is None


@pytest.mark.parametrize("url", ["http://a:1", "a:4222", "nats://", "nats://a:1,b"])
def test_an_address_that_is_none_names_the_variable(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_NATS_URL", url)
    with pytest.raises(VireoError, match=r"^VIREO_NATS_URL: .*isn't nats://host:port"):
        EventLogSettings.load()


@pytest.mark.parametrize(
    "url", ["http://user:secret@a:1", "secret@a:1", "nats://b:1, user:secret@a:1", "secret"]
)
def test_a_password_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("VIREO_NATS_URL", url)
    with pytest.raises(VireoError) as refused:
        EventLogSettings.load()
    assert "secret" not in str(refused.value)


def test_a_log_of_the_settings_shows_no_credentials() -> None:
    url = "nats://user:secret@a:4222, nats://token@b:4222,tls://c"
    settings = EventLogSettings(nats_url=url, nats_token=SecretStr("hidden"))
    shown = settings.model_dump(mode="json")
    assert shown["nats_url"] == "nats://a:4222,nats://b:4222,tls://c"
    assert "hidden" not in str(shown)
    assert settings.nats_url == url


def test_a_stack_passes_all_of_it_on_to_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = EventLogSettings(nats_url="nats://a:1", event_max_bytes=1 << 30, event_retention=3600.0)
    for name, value in log_environment(told).items():
        monkeypatch.setenv(name, value)
    assert EventLogSettings.load() == told
