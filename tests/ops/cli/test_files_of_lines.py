"""What commands read line by line: files of JSON, and what processes wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vireo.ops.cli.__main__ import app
from vireo.ops.cli.json_lines import messages_in
from vireo.server.errors import VireoError
from vireo.v1 import event_pb2


@pytest.mark.parametrize("line", ["{", "[" * 100_000, '{"video": "v"}', '{"kind": "PLAYED"}', "1"])
def test_a_line_that_is_no_message_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(f'{{"videoId": "v"}}\n\n{line}\n')
    with pytest.raises(VireoError, match="line 3: "):
        messages_in(file, event_pb2.Event)


def test_a_record_is_shown_without_settings_and_other_lines_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    record = (
        '{"settings": {"port": 1}, "kind": "gateway", "event": "starting", '
        '"level": "info", "timestamp": "2026-01-02T03:04:05.678901Z"}'
    )
    odd = '{"timestamp": "2026-01-02T03:04:05.678901Z", "level": 3, "event": "\\u001b[2J\\nforged"}'
    (tmp_path / "logs" / "gateway-1.log").write_text(f'{record}\n[1]\n{{"event": "half"}}\n{odd}\n')
    runner = CliRunner(env={"VIREO_HOME": str(tmp_path)})
    assert runner.invoke(app, ["logs"]).stdout.splitlines() == [
        "gateway-1: 03:04:05.678  info  starting  kind=gateway",
        "gateway-1: [1]",
        'gateway-1: {"event": "half"}',
        "gateway-1: 03:04:05.678  3  \N{REPLACEMENT CHARACTER}[2J forged",
    ]
    assert json.loads(runner.invoke(app, ["logs", "--json"]).stdout)["gateway-1"][0] == record


def test_the_terminal_obeys_nothing_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "envoy.log").write_text("old\n\x1b]0;owned\x07GET /\n")
    runner = CliRunner(env={"VIREO_HOME": str(tmp_path)})
    shown = runner.invoke(app, ["logs", "envoy", "--lines", "1"]).stdout
    assert shown == "envoy: \N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}GET /\n"
