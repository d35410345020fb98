"""REST as docs/rest.md and the OpenAPI document have it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import urllib3

from protos.generate import OPENAPI
from tests.acceptance.conftest import BIN, CHECKOUT
from tests.builders.stack import Stack
from tests.builders.waiting import wait_until

DOCUMENT = (CHECKOUT / "docs" / "rest.md").read_text()
CONFIG = Path(__file__).parent / "schemathesis.toml"
FEW = ("--max-examples", "15")
"""`make rest-check` tries more of each operation."""


def test_schemathesis_requests_get_documented_responses(stack: Stack) -> None:
    url = f"http://{stack.edge}/v1/openapi.json"
    done = subprocess.run(
        [BIN / "schemathesis", "--config-file", CONFIG, "run", url, "--no-color", *FEW],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout
    assert "10 total" in done.stdout, "every operation was tested"


def test_the_document_that_is_served_is_the_one_of_the_protos(stack: Stack) -> None:
    answer = urllib3.request("GET", f"http://{stack.edge}/v1/openapi.json")
    assert answer.status == 200
    assert answer.json() == json.loads(OPENAPI.read_text())


def test_the_examples_of_the_page_answer_as_it_shows(stack: Stack) -> None:
    examples = re.findall(r"```sh\n(curl.*?)```", DOCUMENT, re.DOTALL)
    assert len(examples) == 7
    for example in examples:
        done = subprocess.run(
            ["bash", "-euc", example.replace("127.0.0.1:8080", stack.edge)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        if "page_size=0" in example:
            shown = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
            assert shown is not None
            assert answer == json.loads(shown[1])
        else:
            assert "code" not in answer, answer


def test_an_unknown_viewer_gets_a_full_slate(stack: Stack) -> None:
    url = f"http://{stack.edge}/v1/viewers/nobody/recommendations?page_size=20"
    # Until the consumer has started, features may lack events, and slates say so.
    wait_until(lambda: "degradations" not in urllib3.request("GET", url).json())
    assert len(urllib3.request("GET", url).json()["items"]) == 20
