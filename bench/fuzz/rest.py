"""REST requests whose query names the viewer or video that the path or the body names already."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from random import Random
from typing import Any
from urllib.parse import quote

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.json_format import MessageToJson

from bench.fuzz.messages import valid
from bench.fuzz.targets import Method

OVERRIDDEN = "OVERRIDDEN"
"""The edge did anything but refuse the query."""
_PATIENCE = 10.0
_OVERLOADED = ("HTTP 429", "HTTP 503", "HTTP 504")
_VARIABLE = re.compile(r"\{(\w+)\}")
_PARAMETERS = ("viewer_id", "video_id", "viewer_ids", "request.viewer_id", "page_size", "nothing")
"""What is added to a POST, whose body is the whole request."""


def rules(method: Method) -> Sequence[HttpRule]:
    """Return a method's bindings to REST whose path or body says who or what is asked for.

    Only the edge has some.
    """
    if method.place != "edge":
        return ()
    extension: Any = annotations_pb2.http  # its stub is of no type of extension
    rule: HttpRule = method.descriptor.GetOptions().Extensions[extension]
    return [each for each in (rule, *rule.additional_bindings) if each.post or "{" in each.get]


async def ask_with_query(random: Random, method: Method) -> tuple[str, str]:
    """Send one request on a connection of its own; return its target, and how it ended."""
    rule = random.choice(rules(method))
    template = rule.get or rule.post
    path = _VARIABLE.sub(lambda _: str(random.randrange(1000)), template)
    names = _VARIABLE.findall(template) or [random.choice(_PARAMETERS)]
    target = f"{path}?{query(random, random.choice(names))}"
    body = ""
    if rule.post:
        message = valid(random, method.descriptor.input_type)
        body = MessageToJson(message, preserving_proto_field_name=True)
    try:
        async with asyncio.timeout(_PATIENCE):
            status = await _exchange(method.address, "POST" if rule.post else "GET", target, body)
    except TimeoutError:
        return target, "HUNG: no answer"
    except OSError as error:
        return target, f"CLOSED: {error}"
    if status == "HTTP 400" or status in _OVERLOADED:
        return target, status
    return target, f"{OVERRIDDEN}: {status}"


def query(random: Random, name: str) -> str:
    """Return a query that sets a field, its name written in one of the ways that mean it."""
    first, *others = name.split("_")
    camel = first + "".join(map(str.capitalize, others))
    written = random.choice(
        (
            name,
            camel,
            name.replace("_", "%5F"),
            name.replace("_", "%5f"),
            f"%{ord(name[0]):02x}{name[1:]}",
            f"%{ord(camel[0]):02X}{camel[1:]}",
            f"{name}.",
            f"{camel}%2e",
            f"{name}..",
            f".{name}",
        )
    )
    value = quote(str(random.randrange(1000)))
    return random.choice(
        (
            f"{written}={value}",
            f"{written}=",
            written,
            f"{written}={value}&{written}=2",
            f"{written}={value}&{camel}=2",
            f"&{written}={value}",
            f"page_size=3&{written}={value}",
            f"{written}.value={value}",
        )
    )


async def _exchange(address: str, verb: str, target: str, body: str) -> str:
    """Send one request of HTTP/1.1; return "HTTP" and its status.

    Raises:
        OSError: the connection can't be made, or ends without a status.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        data = body.encode()
        head = (
            f"{verb} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()
        line = await reader.readline()
        if not line.startswith(b"HTTP/1.1 "):
            raise ConnectionError(f"answered {line[:80]!r}")
        return f"HTTP {line[9:12].decode()}"
    finally:
        writer.close()
