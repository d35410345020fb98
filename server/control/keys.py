"""The public keys of those who sign callers' tokens, from a file or a URL, followed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import urllib3

from server.errors import VireoError

log = structlog.get_logger()

_ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_FILE_SECONDS = 0.5
_TIMEOUT = urllib3.Timeout(connect=2, read=5)
_MOST_BYTES = 1 << 20
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class KeysError(VireoError):
    """The keys can't be had, or can't serve to check tokens; the message says why."""


async def follow_keys(source: str, seconds: float, changed: Callable[[str], None]) -> None:
    """Calls `changed` with the JSON Web Key Set, at first and on each change, until cancelled.

    While the source fails, or gives what isn't fit, the keys known stay.

    Args:
        source: path of a file, or URL.
        seconds: between two looks at a URL; a file is looked at more often.
        changed: is called with the set as JSON.
    """
    known = reported = ""
    remote = "://" in source
    while True:
        try:
            text = await asyncio.to_thread(_fetch if remote else _read, source)
            keys = checked(text, source)
            reported = ""
            if keys != known:
                log.info("keys of tokens", source=source, ids=_ids(keys))
                known = keys
                changed(keys)
        except KeysError as error:
            # Declared policy: who could check tokens goes on to. Without any keys none are told,
            # and the edge stays closed.
            if str(error) != reported:
                reported = str(error)
                log.warning("keys of tokens not read", reason=reported, known=bool(known))
        # One that could not be had at first holds up the start: it is asked for again soon.
        await asyncio.sleep(seconds if remote and known else _FILE_SECONDS)


def checked(text: bytes, source: str) -> str:
    """A JSON Web Key Set in one form, its members in order.

    Raises:
        KeysError: it is none, has no keys, or has one that is secret.
    """
    try:
        document = json.loads(text)
        keys = document["keys"]
        kinds = {key["kty"] for key in keys}
        members = {member for key in keys for member in key}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeysError(f"{source} is no JSON Web Key Set") from error
    if not keys:
        raise KeysError(f"{source} has no keys")
    if not kinds <= _ASYMMETRIC or members & _PRIVATE:
        # Whoever can read a shared key can sign with it.
        raise KeysError(f"{source} has a key that isn't public; give only public ones, RSA or EC")
    return json.dumps({"keys": keys}, sort_keys=True)


def check_source(source: str) -> None:
    """Raises ValueError where keys from there could be anyone's."""
    if "://" not in source:
        return
    url = urlsplit(source)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return
    raise ValueError("keys are fetched over https alone, or from this machine")


def _ids(text: str) -> list[str]:
    return [key.get("kid", "") for key in json.loads(text)["keys"]]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error


def _fetch(url: str) -> bytes:
    try:
        answer = urllib3.request(
            "GET", url, timeout=_TIMEOUT, retries=False, redirect=False, preload_content=False
        )
        try:
            body = answer.read(_MOST_BYTES + 1)
        finally:
            answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise KeysError(f"{url} can't be fetched: {error}") from error
    if answer.status != 200:
        raise KeysError(f"{url} answered {answer.status}")
    if len(body) > _MOST_BYTES:
        raise KeysError(f"{url} answered more than {_MOST_BYTES} bytes")
    return body
