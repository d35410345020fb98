"""Settings of pods: where they come from, and what they make of each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.s3 import unreachable_s3
from vireo.server.errors import VireoError
from vireo.server.pod.pod import PodSettings
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.settings import load_settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 server is named, and no other setting."""
    monkeypatch.delenv("VIREO_PORT", raising=False)
    for variable, text in unreachable_s3().environment().items():
        monkeypatch.setenv(variable, text)


def test_flags_come_before_the_environment_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_PORT", "1111")
    monkeypatch.setenv("VIREO_CHANNEL", "canary")
    settings = load_settings(PodSettings, ["--port", "2222"])
    assert (settings.port, settings.channel, settings.host) == (2222, "canary", "127.0.0.1")
    assert settings.s3 == S3Settings.load()


def test_cache_lies_below_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIREO_HOME", "/somewhere")
    assert load_settings(PodSettings, ["--port", "1"]).cache == Path("/somewhere/cache")


PORT = "VIREO_PORT or --port: "


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({}, [], f"bad settings: {PORT}Field required"),
        ({}, ["--port", "many"], f"bad settings: {PORT}Input should be a valid integer"),
        ({}, ["--port", "70000"], f"bad settings: {PORT}Input should be less than"),
        ({}, ["--port", "1", "--no", "1"], "bad settings: error parsing CLI: unrecognized arg"),
        ({"GRACE_SECONDS": "-1"}, [], f"{PORT}.*VIREO_GRACE_SECONDS or --grace-seconds: "),
        ({"S3_ENDPOINT": None}, ["--port", "1"], "^VIREO_S3_ENDPOINT: Field required"),
    ],
)
def test_bad_settings_are_one_line_that_names_all_of_them(
    changes: dict[str, str | None],
    flags: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in changes.items():
        if text is None:
            monkeypatch.delenv(f"VIREO_{name}")
        else:
            monkeypatch.setenv(f"VIREO_{name}", text)
    with pytest.raises(VireoError, match=message) as caught:
        load_settings(PodSettings, flags)
    assert "\n" not in str(caught.value)


def test_secrets_are_hidden_when_settings_are_shown() -> None:
    shown = load_settings(PodSettings, ["--port", "1"]).model_dump(mode="json")
    assert shown["s3"]["secret_key"] == "**********"


@pytest.mark.parametrize(("channel", "seconds"), [("production", 60.0), ("canary", 10.0)])
def test_a_pod_keeps_the_release_before_for_as_long_as_its_channel_needs(
    channel: str, seconds: float
) -> None:
    settings = PodSettings(port=0, s3=unreachable_s3(), channel=channel)
    assert settings.previous_is_kept == seconds
