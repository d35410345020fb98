"""All commands follow one grammar, whatever they are about."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.core import TyperArgument, TyperOption
from typer.testing import CliRunner

from vireo.ops.cli.__main__ import app, grouped_commands

FOREGROUND = {"vireo up", "vireo demo", "vireo control serve"}
"""They run until Ctrl-C."""
ONE_MEANING = ("--target", "--force", "--seed", "--ca", "--token", "--control", "--yes", "--json")


@cache
def commands() -> Mapping[str, Any]:
    """Every command by how it is called, without that of the benches, which aren't installed."""
    return {name: each for group in grouped_commands().values() for name, each in group.items()}


def options(command: Any) -> dict[str, TyperOption]:
    return {each.opts[0]: each for each in command.params if isinstance(each, TyperOption)}


def type_of(option: TyperOption) -> str:
    """What an option's values are; versions of typer that build on click say it otherwise."""
    if descriptor := getattr(option, "type_descriptor", None):
        return str(descriptor.annotation)
    return f"{type(getattr(option, 'type', None)).__name__} {option.multiple}"


def test_every_command_shows_how_it_is_called() -> None:
    for name, command in commands().items():
        examples = re.findall(r"(?:^|\(|\s)(vireo [^\n)]+)", command.help or "")
        assert any(example.startswith(name) for example in examples), name


def test_every_result_can_be_had_as_json() -> None:
    without = {name for name, each in commands().items() if "--json" not in options(each)}
    assert without == FOREGROUND


def test_an_option_means_the_same_in_every_command() -> None:
    meanings = defaultdict[str, set[tuple[str | None, str]]](set)
    for command in commands().values():
        for name, option in options(command).items():
            meanings[name].add((option.help, type_of(option)))
    assert {name: meanings[name] for name in ONE_MEANING if len(meanings[name]) != 1} == {}
    kinds = {name: {kind for _, kind in each} for name, each in meanings.items()}
    several = {"--data"}  # `vireo viewers erase` takes more than one
    assert {name for name, each in kinds.items() if len(each) > 1} == several


def test_data_sets_viewers_and_videos_are_named_in_one_way() -> None:
    for name, command in commands().items():
        for each in command.params:
            if isinstance(each, TyperArgument):
                assert each.name not in ("dataset", "data") or name == "vireo data fetch", name
            elif name not in ("vireo tokens make", "vireo data import"):
                assert each.name not in ("viewer", "video", "videos", "name"), (name, each.opts)


def test_what_cannot_be_undone_asks_and_can_be_tried() -> None:
    asking = {name for name, each in commands().items() if "--yes" in options(each)}
    assert asking == {
        "vireo data rm",
        "vireo events limits",  # without --apply it only shows
        "vireo release gc",
        "vireo restore",
        "vireo viewers erase",
    }
    for name in asking - {"vireo events limits"}:
        assert "--dry-run" in options(commands()[name]), name


def test_the_channel_of_pods_does_not_change_what_commands_promote() -> None:
    for name, command in commands().items():
        for each in command.params:
            assert each.envvar != "VIREO_CHANNEL", name


def test_the_commands_are_shown_in_groups_and_the_version_by_itself() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for words in (name.split()[1:] for name in commands()):
        assert {*words} <= {*re.findall(r"[\w-]+", shown)}, words
    assert shown.index("Data and training") < shown.index("The stack on this machine")
    assert CliRunner().invoke(app, ["--version"]).output.startswith("vireo ")


def test_what_is_logged_does_not_mix_with_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_tests = structlog.get_config()
    structlog.reset_defaults()
    try:
        CliRunner(env={"VIREO_HOME": str(tmp_path)}).invoke(app, ["data", "list", "--json"])
        structlog.get_logger().info("connected")
        structlog.get_logger().warning("left behind")
    finally:
        structlog.configure(**of_tests)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "left behind" in printed.err
    assert "connected" not in printed.err


@pytest.mark.parametrize("arguments", [["data", "rm"], ["recommend", "1", "--all"], ["nothing"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
