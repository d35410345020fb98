from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from vireo.ops.cli import evaluate
from vireo.server.errors import VireoError


def vireo_evaluate(*arguments: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(evaluate.app, arguments)
    if isinstance(done.exception, VireoError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("option", evaluate._MOVED)
def test_an_option_that_has_moved_names_the_command_that_has_it_now(option: str) -> None:
    with pytest.raises(VireoError, match=f"{option} has moved") as refusal:
        vireo_evaluate("--data", "films", f"{option}=x")
    named = re.search(r"see: vireo evaluate (.*)", str(refusal.value))
    assert named is not None
    assert "Usage" in vireo_evaluate(*named[1].split())


def test_options_before_a_command_are_not_lost_without_a_word() -> None:
    with pytest.raises(VireoError, match="go after its name: vireo evaluate page"):
        vireo_evaluate("--data", "films", "page")
