"""Spoilt requests by HTTP: each gets an error of the protocol, and none an internal one."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.builders.inference import Array
from tests.builders.inference_http import LENGTH, HttpPod, binary_request, json_request

REQUESTS = 1_500
EXPECTED = {200, 400, 404, 405, 413, 429}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**40,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "\0",
    "日本",
    [],
    {},
    [[]],
    [[1], [1, 2]],
    [0] * 5_000,
    {"a": {"b": []}},
)
PATHS = ("/v2", "/v2/models", "/v2/models/ranker", "/v2/models/ranker/infer")


def _spoil(random: Random, node: Any) -> Any:
    """The node with one value in it replaced, left out or repeated."""
    if random.random() < 0.2 or not isinstance(node, list | dict) or not node:
        return random.choice(VALUES)
    spoilt = node.copy()
    place = random.choice([*spoilt] if isinstance(spoilt, dict) else range(len(spoilt)))
    match random.randrange(4):
        case 0:
            del spoilt[place]
        case 1 if isinstance(spoilt, list):
            spoilt.append(spoilt[place])
        case _:
            spoilt[place] = _spoil(random, spoilt[place])
    return spoilt


def _bytes_spoilt(random: Random, body: bytes) -> bytes:
    match random.randrange(4):
        case 0:
            return body[: random.randrange(len(body))]
        case 1:
            return body + random.randbytes(random.randrange(1, 50))
        case 2:
            return random.randbytes(random.randrange(200))
    spoilt = bytearray(body)
    for _ in range(random.randrange(1, 6)):
        spoilt[random.randrange(len(spoilt))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


async def test_no_spoilt_request_is_an_internal_error(
    pod: HttpPod, inputs: dict[str, Array]
) -> None:
    random, whole = Random(7), json_request(inputs, id="mine", outputs=[{"name": "scores"}])
    binary, headers = binary_request(inputs)
    length = int(headers[LENGTH])
    answers = set()
    for _ in range(REQUESTS):
        method, path, sent = "POST", "/v2/models/ranker/infer", {}
        match random.randrange(4):
            case 0:
                body = json.dumps(_spoil(random, whole)).encode()
            case 1:
                head = json.dumps(_spoil(random, json.loads(binary[:length]))).encode()
                body, sent = head + binary[length:], {LENGTH: str(len(head))}
            case 2:
                body, sent = _bytes_spoilt(random, binary), headers
            case _:
                body = _bytes_spoilt(random, json.dumps(whole).encode())
                method, path = random.choice(("GET", "POST", "PUT")), random.choice(PATHS)
        answer = await pod.ask(method, path, body, sent)
        assert answer.status in EXPECTED, (answer.status, answer.body[:500], body[:500])
        if answer.status >= 400:
            assert answer.error
        answers.add(answer.status)
    assert {200, 400, 404, 405} <= answers
    whole_again = await pod.infer("ranker", whole)
    assert whole_again.status == 200
