from __future__ import annotations

import pytest
from typer.testing import CliRunner

from vireo.ops.cli import evaluate
from vireo.server.errors import VireoError


def test_options_before_a_command_are_not_lost_without_a_word() -> None:
    done = CliRunner().invoke(evaluate.app, ["--data", "films", "page"])
    with pytest.raises(VireoError, match="go after its name: vireo evaluate page"):
        raise done.exception or AssertionError(done.output)
