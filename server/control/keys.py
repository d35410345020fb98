"""The public keys that callers' tokens are verified with, polled from a file or a URL."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import urllib3

from vireo.server.control.attempts import Attempts, follow, read_body, read_bounded
from vireo.server.errors import VireoError

log = structlog.get_logger()

_MEMBERS: Mapping[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
"""Required members of a public key of each type."""
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_WORDS = ("kty", "kid", "alg", "use", "crv")
_FILE_SECONDS = 0.5
_URL_SECONDS = 60.0
"""Seconds between reads of a URL: as long as a new key may take to be known."""
_SILENT_SECONDS = 5.0
"""Timeout of each step: the connection, the handshake, and each read."""
_FETCH_SECONDS = 10.0
"""Maximum seconds until a body is whole."""
_MAX_BYTES = 1 << 20
_MAX_KEYS = 100
_MAX_SHOWN = 64
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


async def follow_keys(source: str, changed: Callable[[str], None], attempts: Attempts) -> None:
    """Call `changed` with the current JSON Web Key Set, and on each change, until cancelled.

    While the source fails or is invalid, the last known keys stay in use. Before the first valid
    set `changed` isn't called, and the edge stays closed.

    Args:
        source: path of a file, or URL.
        changed: called with the set as JSON.
        attempts: records the outcomes.
    """
    remote = "://" in source

    def read() -> tuple[str, frozenset[str]]:
        text = _fetch(source) if remote else read_bounded(Path(source), _MAX_BYTES)
        return checked(text, source), frozenset()

    def publish(keys: str) -> None:
        changed(keys)
        ids = [key.get("kid", "")[:_MAX_SHOWN] for key in json.loads(keys)["keys"]]
        log.info("token keys", source=source, ids=ids)

    await follow(attempts, read, publish, _URL_SECONDS if remote else _FILE_SECONDS)


def checked(text: bytes, source: str) -> str:
    """Return a JSON Web Key Set in canonical form, with only the relevant members.

    Raises:
        VireoError: it is not a key set, has no keys, or has a private or incomplete one. Envoy
            would accept such a set and reject every token.
    """
    try:
        keys = json.loads(text)["keys"]
        kinds = {key["kty"] for key in keys}
        members = {member for key in keys for member in key}
    except Exception as error:
        # Malformed documents can make the parser raise anything, including RecursionError.
        raise VireoError(f"{source} is not a JSON Web Key Set") from error
    if not keys:
        raise VireoError(f"{source} has no keys")
    if len(keys) > _MAX_KEYS:
        raise VireoError(f"{source} has more than {_MAX_KEYS} keys")
    if not kinds <= _MEMBERS.keys() or members & _PRIVATE:
        # Anyone who can read a symmetric key can sign with it.
        raise VireoError(f"{source} has a key that isn't public; give only public ones, RSA or EC")
    for number, key in enumerate(keys, start=1):
        if not _is_whole(key):
            raise VireoError(f"{source}: key {number} is invalid and can't verify tokens")
    public = [
        {name: key[name] for name in (*_WORDS, *_MEMBERS[key["kty"]]) if name in key}
        for key in keys
    ]
    return json.dumps({"keys": public}, sort_keys=True)


def _is_whole(key: Mapping[str, Any]) -> bool:
    """Return whether a key has all required members, and only text in the optional ones."""
    parts = [key.get(name) for name in _MEMBERS[key["kty"]]]
    return all(isinstance(part, str) and _BASE64URL.fullmatch(part) for part in parts) and all(
        isinstance(key[word], str) for word in _WORDS if word in key
    )


def check_source(source: str) -> None:
    """Raise ValueError if the source is a URL that isn't authenticated."""
    if "://" not in source:
        return
    url = urlsplit(source)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return
    raise ValueError("keys can be fetched only over https, or from this machine")


def _fetch(url: str) -> bytes:
    """Return the body of a URL's response; redirects aren't followed."""
    end = time.monotonic() + _FETCH_SECONDS
    try:
        response = urllib3.request(
            "GET",
            url,
            headers={"Accept": "application/json"},
            timeout=_SILENT_SECONDS,
            retries=False,
            preload_content=False,
        )
        body = read_body(response, _MAX_BYTES, end)
        response.close()
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise VireoError(f"{url} can't be fetched: {error}") from error
    if response.status != 200:
        raise VireoError(f"{url} answered {response.status}")
    if len(body) > _MAX_BYTES:
        raise VireoError(f"{url} answered more than {_MAX_BYTES} bytes")
    return body
